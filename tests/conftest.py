"""A node in a process of its own and a client of it; and what holds for every test run."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import settings
from structlog._config import BoundLoggerLazyProxy

from tests.support.environment import clear_proxies
from tests.support.process import Node, serve
from tests.support.process_client import Client
from tests.support.quick import MEMORY, is_quick, no_processes
from tests.support.warm import SHAKING

if TYPE_CHECKING:
    from tests.support.postgres import Postgres
    from tests.support.sites import SiteServers, TestSite

_HOW = {
    "clients": "real build clients: tests/clients/install, then pytest -m clients",
    "servers": "need servers: tests/servers/install, then pytest -m servers",
    "heavy": "take minutes, need root, or both: pytest -n 0 -m heavy",
}
_LEFT_OUT = pytest.StashKey[Counter[str]]()

# Clients in tests would ask such a proxy for servers on loopback; so would nodes, which inherit it.
clear_proxies(os.environ)

settings.register_profile("plain", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("plain")


# What the disk does, or how long it takes, is part of what these are about.
_ON_DISK = tuple(
    str(Path(__file__).parent / room)
    for room in (
        "attacks",
        "benchmarks",
        "clients",
        "contracts",
        "e2e",
        "faults/storage",
        "storage",
    )
)
_FREE_BYTES = 4 * 2**30  # for the tests of several processes
_PROCESSES_MAX = 8  # of a test run: nodes and build clients need memory, too
_NAMED_MAX = 80  # characters or bytes of a parameter that names its test


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder in memory for most tests, which otherwise spend much of their time on fsync."""
    if not _in_memory(request.node):
        yield tmp_path
        return
    with TemporaryDirectory(prefix="pytest-", dir=MEMORY, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _in_memory(item: pytest.Item) -> bool:
    if not MEMORY.is_dir():
        return False
    if item.get_closest_marker("quick") is not None:
        return True
    if any(item.get_closest_marker(mark) for mark in ("disk", "heavy")):
        return False
    return not str(item.path).startswith(_ON_DISK) and disk_usage(MEMORY).free > _FREE_BYTES


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def node(data_dir: Path) -> Iterator[Node]:
    with serve(data_dir) as serving:
        yield serving


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for the tests of a file, which leave no mark on it or damage one blob each."""
    with serve(tmp_path_factory.mktemp("shared") / "data") as serving:
        yield serving


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with Client(node.address) as calling:
        yield calling


@pytest.fixture(scope="session")
def _started_databases() -> list[Postgres]:
    """The server that postgres_server has started, if any test of this process needed it."""
    return []


@pytest.fixture(scope="session")
def postgres_server(_started_databases: list[Postgres]) -> Iterator[Postgres]:
    """A PostgreSQL server; each test makes a database of its own, which goes with the test."""
    from tests.support.postgres import postgres  # what imports it is not quick

    with postgres() as server:
        _started_databases.append(server)
        yield server


@pytest.fixture(autouse=True)
def _databases_go_with_their_test(_started_databases: list[Postgres]) -> Iterator[None]:
    yield
    for server in _started_databases:
        server.drop_databases()


@pytest.fixture(scope="session")
def site_servers(postgres_server: Postgres) -> Iterator[SiteServers]:
    """The servers of shared sites, one set for each test process; for tests marked servers."""
    from tests.support.sites import site_servers_in  # it starts processes: not for quick tests

    with site_servers_in(postgres_server) as servers:
        yield servers


@pytest.fixture
def site(site_servers: SiteServers, monkeypatch: pytest.MonkeyPatch) -> TestSite:
    """A shared site that nobody has used."""
    from tests.support.sites import wait_patiently  # not for quick tests, either

    wait_patiently(monkeypatch)
    return site_servers.new_site()


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Undo what a command that ran in this process did to logging: others look at events."""
    before = structlog.get_config()
    yield
    if structlog.get_config()["cache_logger_on_first_use"]:
        for name, module in list(sys.modules.items()):
            if name.startswith("federation."):
                for value in list(vars(module).values()):
                    if isinstance(value, BoundLoggerLazyProxy):
                        vars(value).pop("bind", None)  # where structlog caches the logger
    structlog.configure(**before)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEFT_OUT] = Counter()
    if SHAKING in os.environ:
        from tests.support import shaking

        shaking.install()
        config.pluginmanager.register(shaking)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes `-n auto` means, each of which collects all tests first.

    Most tests wait for other processes most of the time; quick ones do not. A file of tests is
    run by one process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    processes = cores + 1 if config.option.markexpr == "quick" else 2 * cores + 1
    files = {argument.partition("::")[0] for argument in config.args}
    if files and all(name.endswith(".py") for name in files):
        processes = min(processes, len(files))
    return min(processes, _PROCESSES_MAX)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long parameter by its length: names of tests are sent, kept and shown all the time."""
    if isinstance(val, str | bytes) and len(val) > _NAMED_MAX:
        return f"{argname} of {len(val)}"
    return None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is collected, which stays to the end, out of all collections of garbage.

    They would look at some million objects again and again, while tests are imported and later.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow_files = set()
    for item in items:
        if is_quick(item):
            item.add_marker("quick")
        else:
            slow_files.add(item.path)
    # Files that start processes first: the short ones then fill the end, while the last of the
    # long ones still run. A file stays in one piece.
    items.sort(key=lambda item: item.path not in slow_files)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if item.get_closest_marker("quick") is None:
        return (yield)
    with no_processes():
        return (yield)


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in _HOW:
            if item.get_closest_marker(mark):
                item.config.stash[_LEFT_OUT][mark] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process that runs a share of the tests: tell the one that reports."""
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        counted = session.config.stash[_LEFT_OUT]
        told["left_out"] = dict(counted)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Each of these processes has looked at all tests, so one of them knows what is left out."""
    del error
    node.config.stash[_LEFT_OUT] |= Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for mark, count in config.stash[_LEFT_OUT].items():
        terminalreporter.write_line(f"left out: {count} tests marked {mark} ({_HOW[mark]})")
