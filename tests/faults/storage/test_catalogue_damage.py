"""S19: a damaged, cut or lost catalogue is reported, never written to, and can be rebuilt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc
import pytest

from federation.core.digest import Digest, digest_of
from tests.faults.storage.clean import assert_clean, blob_path
from tests.faults.storage.conftest import file_blob, small_blob
from tests.support.process import Node, federation, serve
from tests.support.process_client import Client, outcome

OK = grpc.StatusCode.OK


class Filled:
    """A data directory whose node has ended, and what it holds."""

    def __init__(self, data_dir: Path, files: list[bytes], smalls: list[bytes]) -> None:
        self.data_dir = data_dir
        self.files = files
        self.smalls = smalls
        self.catalogue = data_dir / "catalogue.sqlite"

    @property
    def digests(self) -> list[Digest]:
        return [digest_of(data) for data in self.files + self.smalls]


@pytest.fixture
def filled(data_dir: Path) -> Filled:
    files, smalls = [file_blob() for _ in range(5)], [small_blob(9000) for _ in range(300)]
    with serve(data_dir) as node, Client(node.address) as client:
        for data in files:
            client.write(data)
        assert set(client.batch_update(smalls)) == {OK}
        assert node.stop() == 0
    return Filled(data_dir, files, smalls)


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _flip_pages(path: Path) -> None:
    size = path.stat().st_size
    for page in range(2, size // 4096, 3):  # structure among them, not only bytes of blobs
        _overwrite(path, page * 4096 + 8, os.urandom(2000))


_DAMAGES: dict[str, Callable[[Path], None]] = {
    "header overwritten": lambda path: _overwrite(path, 0, os.urandom(100)),
    "pages overwritten": _flip_pages,
    "cut to half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "deleted": lambda path: path.unlink(),
}


_ALIKE = {"cut to half", "emptied"}  # to the others, in what has to be done about them
_HEAVY = pytest.mark.heavy


@pytest.mark.parametrize(
    "damage", [pytest.param(each, marks=_HEAVY if each in _ALIKE else ()) for each in _DAMAGES]
)
def test_s19_a_damaged_catalogue_gives_no_wrong_bytes_and_rebuild_brings_the_files_back(
    damage: str, filled: Filled
) -> None:
    _DAMAGES[damage](filled.catalogue)
    with Node(filled.data_dir, name="damaged") as node:
        _refuses_or_serves_right_bytes(node, filled)
    done = federation("rebuild", "--json", "--data-dir", str(filled.data_dir))
    assert done.returncode == 0, done.stdout + done.stderr
    json.loads(done.stdout)
    with serve(filled.data_dir, name="rebuilt") as node, Client(node.address) as client:
        for data in filled.files:
            assert client.read(digest_of(data)) == data
        assert client.batch_update([small_blob()]) == [OK]
    assert_clean(filled.data_dir)


def _read_into(got: list[bytes], client: Client, data: bytes) -> None:
    got.append(client.read(digest_of(data)))


def _refuses_or_serves_right_bytes(node: Node, filled: Filled) -> None:
    node.launch()
    try:
        node.wait_ready()
    except AssertionError:
        assert "rebuild" in node.log, f"no word of what to do:\n{node.log}"
        return
    wrong, trouble = 0, 0
    with Client(node.address) as client:
        for data in filled.files + filled.smalls[::10]:
            got: list[bytes] = []
            code = outcome(partial(_read_into, got, client, data))
            wrong += code is OK and got != [data]
            trouble += code is not OK
        refused = outcome(lambda: client.batch_update([small_blob()])) is not OK
    assert wrong == 0, f"{wrong} reads ended OK with wrong bytes"
    assert trouble, "damage that no read ever met was not reported, nor did it harm: no test"
    assert refused, "it wrote onto a catalogue that it could not read"
    assert "rebuild" in node.log, f"no word of what to do:\n{node.log[-3000:]}"
    node.kill()


def test_s19_garbage_in_the_shared_memory_file_is_harmless(filled: Filled) -> None:
    (filled.data_dir / "catalogue.sqlite-shm").write_bytes(os.urandom(32768))
    with serve(filled.data_dir) as node, Client(node.address) as client:
        assert client.find_missing(filled.digests) == set()
        assert client.batch_update([small_blob()]) == [OK]
    assert_clean(filled.data_dir)


def _killed_with_wal(data_dir: Path) -> tuple[list[bytes], Path]:
    smalls = [small_blob(9000) for _ in range(100)]
    with serve(data_dir) as node, Client(node.address) as client:
        for at in range(0, 100, 10):
            assert set(client.batch_update(smalls[at : at + 10])) == {OK}
        node.kill()
    wal = data_dir / "catalogue.sqlite-wal"
    assert wal.stat().st_size > 100_000, "the commits are not in the WAL: nothing to damage"
    return smalls, wal


@pytest.mark.parametrize(
    "damage", ["deleted", "frame flipped", pytest.param("cut to half", marks=_HEAVY)]
)
def test_s19_a_damaged_wal_loses_at_most_what_was_in_it(damage: str, data_dir: Path) -> None:
    with serve(data_dir) as node, Client(node.address) as client:
        early = file_blob()
        client.write(early)
        assert node.stop() == 0
    smalls, wal = _killed_with_wal(data_dir)
    match damage:
        case "deleted":
            wal.unlink()
        case "cut to half":
            os.truncate(wal, wal.stat().st_size // 2)
        case _:
            _overwrite(wal, wal.stat().st_size // 2, os.urandom(64))
    with serve(data_dir, name="after") as node, Client(node.address) as client:
        assert client.read(digest_of(early)) == early
        for data in smalls:
            assert client.batch_read([digest_of(data)]).get(digest_of(data), data) == data
        assert set(client.batch_update(smalls)) == {OK}
        assert client.find_missing(map(digest_of, smalls)) == set()
    assert_clean(data_dir)


def test_s19_rebuild_takes_no_file_on_its_name_alone(filled: Filled) -> None:
    digest = digest_of(filled.files[0])
    path = blob_path(filled.data_dir, digest.hash_hex, digest.size_bytes)
    _overwrite(path, 100, b"wrong")
    filled.catalogue.unlink()
    done = federation("rebuild", "--json", "--data-dir", str(filled.data_dir))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    with serve(filled.data_dir, name="rebuilt") as node, Client(node.address) as client:
        assert client.find_missing([digest]) == {digest}
        for data in filled.files[1:]:
            assert client.read(digest_of(data)) == data


def test_s19_a_node_refuses_to_start_anew_over_blobs_whose_catalogue_is_lost(
    filled: Filled,
) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{filled.catalogue}{suffix}").unlink(missing_ok=True)
    with Node(filled.data_dir, name="lost") as node:
        node.launch()
        assert node.wait_exit() not in (0, None)
        assert "rebuild" in node.log


@pytest.mark.heavy
def test_commands_end_without_a_traceback_on_a_damaged_catalogue(filled: Filled) -> None:
    _overwrite(filled.catalogue, 0, os.urandom(4096))
    for command in ("status", "verify", "gc"):
        done = federation(command, "--data-dir", str(filled.data_dir))
        assert done.returncode != 0
        assert "Traceback" not in done.stderr, done.stderr
