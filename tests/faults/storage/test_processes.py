"""Several processes on one data directory, and who may not open it: S34, S35, S38, O08-O13."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import apsw
import grpc
import pytest

from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from tests.faults.storage.clean import assert_clean, catalogue
from tests.faults.storage.conftest import file_blob, small_blob
from tests.faults.storage.load import Load
from tests.faults.storage.strace import prefix
from tests.faults.storage.test_leases import WIDE, patiently, read_leased, storm
from tests.support.oracle import Oracle
from tests.support.polling import pass_time, wait_until
from tests.support.process import Node, Settings, serve
from tests.support.process_client import Client, action_result

OK = grpc.StatusCode.OK
_LEASE_S = 1.0
_clock = SystemClock()
_SMALL = {"storage": {"quota": "12M", "lease": f"{_LEASE_S}s", **WIDE}}


@contextmanager
def serving(data_dir: Path, number: int, settings: Settings) -> Iterator[list[Node]]:
    """So many nodes on one directory."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(serve(data_dir, settings, name=f"node{n}")) for n in range(number)
        ]


def maintainer(data_dir: Path) -> int | None:
    """The process that holds the maintenance lock, asked of the kernel."""
    inode = (data_dir / "maintenance.lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "FLOCK" in fields and fields[-3].endswith(f":{inode}") and "->" not in fields:
            return int(fields[-4])
    return None


def test_o08_processes_on_one_directory_see_each_others_writes_at_once(data_dir: Path) -> None:
    with serving(data_dir, 2, {}) as (one, two), Client(one.address) as a, Client(two.address) as b:
        for number in range(20):
            large, small = file_blob(100_000), small_blob()
            digests = [digest_of(large), digest_of(small)]
            assert b.find_missing(digests) == set(digests)
            a.write(large)
            a.batch_update([small])
            assert b.find_missing(digests) == set()
            assert b.read(digests[0]) == large
            action = digest_of(b"%d" % number)
            assert b.get_action_result(action) is None
            result = action_result([("out", digests[0])])
            a.update_action_result(action, result)
            assert b.get_action_result(action) == result
        assert_clean(data_dir)


def test_o08_exactly_one_process_does_maintenance_and_another_takes_over(
    data_dir: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(data_dir)
    with serving(data_dir, 2, _SMALL) as nodes, serve(link, _SMALL, name="linked") as linked:
        nodes.append(linked)
        by_pid = {node.pid: node for node in nodes}
        first = wait_until(lambda: maintainer(data_dir), "a process to do maintenance")
        assert first in by_pid
        by_pid.pop(first).kill()
        second = wait_until(
            lambda: (pid := maintainer(data_dir)) != first and pid,
            "another to take over",
        )
        assert second in by_pid
        # It does not only hold the lock: it evicts, and each of the rest may cause it to.
        with storm(next(n for p, n in by_pid.items() if p != second)):
            wait_until(
                lambda: by_pid[second].metrics().value("federation_evicted_total") > 0,
                "the new one to evict",
            )
        assert_clean(data_dir)


def test_s38_no_process_calls_present_what_another_evicted(data_dir: Path) -> None:
    """B answers from what it knows; A evicts. What B called present is read through A."""
    with (
        serving(data_dir, 2, _SMALL) as (one, two),
        Client(one.address) as a,
        Client(two.address) as b,
    ):
        evictor = maintainer(data_dir)
        near, far = (a, b) if evictor == one.pid else (b, a)
        present = absent = 0
        blobs = [file_blob(100_000) if n % 2 else small_blob(9000) for n in range(10)]
        with storm(one), storm(two):
            for number in range(7):
                for data in blobs:
                    patiently(partial(far.write, data))
                pass_time(0.5 * number)
                since_s = _clock.monotonic_s()
                missing = far.find_missing(map(digest_of, blobs))
                absent += len(missing)
                for data in blobs:
                    if digest_of(data) not in missing:  # it was leased by the other process
                        present += read_leased(near, data, since_s, _LEASE_S)
                        read_leased(far, data, since_s, _LEASE_S)
        assert present > 10, "nothing was ever called present: nothing was tested"
        assert absent > 5, "nothing was ever evicted: nothing was tested"
        assert_clean(data_dir)


def test_s34_two_processes_under_readers_and_kills_keep_the_catalogue_whole(
    data_dir: Path, oracle: Oracle
) -> None:
    for number in range(2):
        with serving(data_dir, 2, {}) as (one, two):
            with Client(one.address) as client:
                oracle.verify(client).check()
                oracle.verify_unacknowledged(client).check()
            loads = [Load(n.address, oracle, f"{number}:{n.pid}", workers=2) for n in (one, two)]
            stop = threading.Event()
            readers = [
                threading.Thread(target=_read_until, args=(n.address, oracle, stop))
                for n in (one, two)
                for _ in range(4)
            ]
            threads: list[Load | threading.Thread] = [*loads, *readers]
            for thread in threads:
                thread.start()
            loads[0].wait_for_calls(30)
            loads[1].wait_for_calls(30)
            one.kill()
            two.kill()
            stop.set()
            for load in loads:
                faults = load.stop().faults
                assert not faults, faults[:5]
            for reader in readers:
                reader.join(30)
    with serve(data_dir) as node, Client(node.address) as client:
        oracle.verify(client).check()
        assert f"sqlite={apsw.sqlite_lib_version()}" in node.log, node.log_tail
        assert_clean(data_dir)


def _read_until(address: str, oracle: Oracle, stop: threading.Event) -> None:
    with Client(address) as client:
        while not stop.is_set():
            try:
                client.find_missing(list(oracle.blobs)[-500:])
            except grpc.RpcError:
                return  # killed


def test_s34_a_sqlite_that_can_corrupt_a_shared_wal_is_refused(data_dir: Path) -> None:
    program = (
        "import apsw; apsw.sqlite_lib_version = lambda: '3.51.2'\n"
        "from federation.cli import main; main()"
    )
    settings = Node(data_dir)._config_args()
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", *settings],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "3.51.2" in done.stderr
    assert "3.51.3" in done.stderr
    assert "apsw" in done.stderr
    assert "Traceback" not in done.stderr


def test_s35_a_directory_without_shared_memory_maps_is_refused(data_dir: Path) -> None:
    with serve(data_dir) as node:
        assert node.stop() == 0
    paths = [data_dir / "epoch", data_dir / "catalogue.sqlite-shm"]
    with Node(data_dir, prefix=prefix("mmap:error=ENODEV", paths=paths), name="refused") as node:
        node.launch()
        assert node.wait_exit() != 0
        assert "local disk" in node.log
        assert "Traceback" not in node.log


def test_o13_a_catalogue_of_a_newer_program_is_refused_and_not_touched(data_dir: Path) -> None:
    data = small_blob()
    with serve(data_dir) as node, Client(node.address) as client:
        client.batch_update([data])
        assert node.stop() == 0
    with catalogue(data_dir, write=True) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone() or (0,)
        connection.execute(f"PRAGMA user_version = {version + 1}")
    before = _fingerprint(data_dir)
    with Node(data_dir, name="older") as node:
        node.launch()
        assert node.wait_exit() != 0
        assert f"schema version {version + 1}" in node.log
        assert "Traceback" not in node.log
    assert _fingerprint(data_dir) == before
    with catalogue(data_dir, write=True) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with serve(data_dir, name="again") as node, Client(node.address) as client:
        assert client.batch_read([digest_of(data)]) == {digest_of(data): data}


def _fingerprint(data_dir: Path) -> dict[str, str]:
    """The content of everything that is data: SQLite's shared memory file is not."""
    return {
        str(path.relative_to(data_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(data_dir.rglob("*"))
        if path.is_file() and path.stat().st_size and not path.name.endswith(("-shm", ".lock"))
    }


def test_o09_stale_files_of_a_killed_process_stop_nobody(data_dir: Path) -> None:
    with serve(data_dir) as node:
        node.kill()
        (lock,) = (data_dir / "run").glob("*.lock")
        lock.with_suffix(".tmp").write_text("{")  # as if killed while it said where it listens
        node.start()
        wait_until(
            lambda: sorted(p.suffix for p in (data_dir / "run").iterdir()) == [".json", ".lock"],
            "the traces of the killed process to go",
        )


@pytest.mark.parametrize("first", ["pull", "push"])
def test_o08_two_units_one_pulls_one_pushes(first: str, data_dir: Path) -> None:
    """The old two-unit set-up: one process reads, one writes, on the same directory."""
    listener = {"address": "127.0.0.1:0", "push": False}
    with ExitStack() as stack:
        names = ["pull", "push"] if first == "pull" else ["push", "pull"]
        nodes = {
            name: stack.enter_context(
                serve(data_dir, {"listeners": [{**listener, "push": name == "push"}]}, name=name)
            )
            for name in names
        }
        data = small_blob()
        with Client(nodes["push"].address) as pushing, Client(nodes["pull"].address) as pulling:
            assert pushing.batch_update([data]) == [OK]
            assert pulling.read(digest_of(data)) == data
        assert_clean(data_dir)
