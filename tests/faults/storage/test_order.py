"""What is durable before what, as the kernel is told: S02 where no power is cut.

A row that names a file may be on the disk only once the file's bytes and its name are; an OK may be
out only once the row is. All of that is asked for while the write-ahead log is used anew, too: then
it does not grow, and nothing but its own sync makes it durable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from federation.core.digest import Digest, digest_of
from tests.faults.storage.conftest import file_blob, small_blob
from tests.faults.storage.strace import attached
from tests.support.process import Node, serve
from tests.support.process_client import Client

_CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$")
_PATH = re.compile(r'<([^<>]+)>|"([^"]+)"')
_SYNCS = ("fdatasync", "fsync")
_WRITES_MAX = 100  # a checkpoint comes every 1,000 pages, and then the log begins again


class Call(NamedTuple):
    """A call that has succeeded."""

    name: str
    paths: tuple[str, ...]


def calls_in(trace: str) -> Iterator[Call]:
    """Yield calls in the order in which they ended; strace cuts those that overlap in two."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        found = _CALL.match(line)
        if found is None:
            continue
        thread, name, rest = found.groups()
        if rest.endswith("<unfinished ...>"):
            begun[thread] = rest
            continue
        text = begun.pop(thread, "") + rest if "resumed>" in line else rest
        if text.rstrip().endswith("= 0"):
            paths = tuple(a or b for a, b in _PATH.findall(text.replace("<unfinished ...>", "")))
            yield Call(name, paths)


def place(calls: Sequence[Call], wanted: Callable[[Call], bool], what: str) -> int:
    """Return where the first such call is."""
    found = [number for number, call in enumerate(calls) if wanted(call)]
    assert found, f"{what} is missing in\n" + "\n".join(map(str, calls))
    return found[0]


def check_order(calls: Sequence[Call], data_dir: Path, digests: Sequence[Digest]) -> None:
    """Assert for each file: bytes, then name, then folder, then a row."""
    for digest in digests:
        path = data_dir / "blobs" / digest.hash_hex[:2] / f"{digest.hash_hex}-{digest.size_bytes}"
        named = place(calls, partial(renamed_to, str(path)), f"the name {path}")
        received = calls[named].paths[0]
        place(calls[:named], partial(synced, received), f"a sync of {received} before that")
        after = calls[named:]
        folder = place(after, partial(synced, str(path.parent)), "its folder's sync")
        place(after[folder:], partial(synced, log_of(data_dir)), "its row's sync behind that")


def renamed_to(path: str, call: Call) -> bool:
    return call.name.startswith("rename") and call.paths[-1] == path


def synced(path: str, call: Call) -> bool:
    return call.name in _SYNCS and call.paths == (path,)


def log_of(data_dir: Path) -> str:
    return str(data_dir / "catalogue.sqlite-wal")


@contextmanager
def traced(node: Node, trace: Path) -> Iterator[list[Call]]:
    """Fill the list with what the node has asked of the kernel until the block ended."""
    calls: list[Call] = []
    with attached(node, "fdatasync", "fsync", "/^rename", out=str(trace), names=True):
        yield calls
    calls += calls_in(trace.read_text(errors="replace"))


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose write-ahead log has begun again at least once."""
    with (
        serve(tmp_path_factory.mktemp("used") / "data") as node,
        Client(node.address) as client,
    ):
        sizes = [log_size(node)]
        while sizes[-1] == 0 or sizes[-1] > sizes[-2]:
            assert len(sizes) < _WRITES_MAX, f"the write-ahead log only grows: {sizes}"
            client.batch_update([small_blob(10_000) for _ in range(50)])
            sizes.append(log_size(node))
        yield node


@pytest.fixture
def writing(used: Node) -> Iterator[Client]:
    with Client(used.address) as client:
        yield client


def log_size(node: Node) -> int:
    return Path(log_of(node.data_dir)).stat().st_size


def test_a_streamed_blob_is_durable_step_by_step(
    used: Node, writing: Client, tmp_path: Path
) -> None:
    data = file_blob()
    with traced(used, tmp_path / "trace") as calls:
        writing.write(data)
    check_order(calls, used.data_dir, [digest_of(data)])


def test_each_file_of_a_batch_is_durable_step_by_step(
    used: Node, writing: Client, tmp_path: Path
) -> None:
    blobs = [file_blob(100_000) for _ in range(5)]
    with traced(used, tmp_path / "trace") as calls:
        writing.batch_update(blobs)
    check_order(calls, used.data_dir, [digest_of(data) for data in blobs])


def test_what_is_a_row_alone_is_durable_before_its_ok(
    used: Node, writing: Client, tmp_path: Path
) -> None:
    log = log_of(used.data_dir)
    with traced(used, tmp_path / "trace") as calls:
        writing.batch_update([small_blob()])
    place(calls, partial(synced, log), "a sync of the write-ahead log")
    with traced(used, tmp_path / "trace of an entry") as calls:
        writing.push_blob("urn:example:order", digest_of(b""))
    place(calls, partial(synced, log), "a sync of the write-ahead log")
