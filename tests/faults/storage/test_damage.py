"""Blobs damaged behind the node's back: S15, S16, S17, S20, S21. No Read of one ends OK."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from federation.core.digest import Digest, digest_of
from tests.faults.storage.clean import assert_clean, blob_path, catalogue, leftovers
from tests.faults.storage.conftest import file_blob, small_blob
from tests.faults.storage.disks import Disk
from tests.support.polling import pass_time, wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client, action_result, outcome

OK, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND
_BLOB_BYTES = 3 * 2**20  # more than one chunk


@pytest.fixture
def node(shared_node: Node) -> Node:
    """Each test damages a blob of its own and heals it again."""
    return shared_node


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x40]))


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"not a blob")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _symlink(path: Path) -> None:
    # The right bytes, outside the store: following the link would even look right.
    outside = path.parent.parent.parent.parent / "outside"
    shutil.copy(path, outside)
    path.unlink()
    path.symlink_to(outside)


_DAMAGES: dict[str, Callable[[Path], None]] = {
    "s15_first_byte": lambda path: _flip(path, 0),
    "s15_middle_byte": lambda path: _flip(path, _BLOB_BYTES // 2),
    "s15_last_byte": lambda path: _flip(path, _BLOB_BYTES - 1),
    "s16_cut_to_nothing": lambda path: os.truncate(path, 0),
    "s16_cut_to_half": lambda path: os.truncate(path, _BLOB_BYTES // 2),
    "s16_grown": _grow,
    "s17_deleted": lambda path: path.unlink(),
    "s17_directory": _directory,
    "s17_fifo": _fifo,
    "s17_symlink": _symlink,
}


def _path(node: Node, digest: Digest) -> Path:
    return blob_path(node.data_dir, digest.hash_hex, digest.size_bytes)


@pytest.mark.parametrize("damage", _DAMAGES)
def test_s15_s16_s17_a_damaged_file_is_never_served_and_an_upload_heals_it(
    damage: str, node: Node, client: Client
) -> None:
    data, action = file_blob(_BLOB_BYTES), digest_of(os.urandom(8))
    digest = digest_of(data)
    client.write(data)
    client.update_action_result(action, action_result([("out", digest)]))
    assert client.get_action_result(action) is not None
    _DAMAGES[damage](_path(node, digest))
    _assert_found_and_healed(node, client, data)
    assert client.get_action_result(action) is not None  # whole again without a new update


def _assert_found_and_healed(node: Node, client: Client, data: bytes) -> None:
    digest = digest_of(data)
    code = outcome(lambda: client.read(digest))
    assert code in (NOT_FOUND, grpc.StatusCode.DATA_LOSS), code
    wait_until(lambda: client.find_missing([digest]) == {digest}, "the blob to be missing")
    assert outcome(lambda: client.read(digest)) is NOT_FOUND
    assert client.batch_read([digest]) == {}
    wait_until(
        lambda: node.metrics().value("federation_quarantined_total") >= 1, "it to be counted"
    )
    assert client.write(data) == len(data)
    assert client.read(digest) == data
    assert_clean(node.data_dir)


def test_s15_a_result_whose_output_is_damaged_is_hidden(node: Node, client: Client) -> None:
    data, action = file_blob(), digest_of(os.urandom(8))
    client.write(data)
    client.update_action_result(action, action_result([("out", digest_of(data))]))
    _flip(_path(node, digest_of(data)), 7)
    assert outcome(lambda: client.read(digest_of(data))) is not OK
    wait_until(lambda: client.get_action_result(action) is None, "the result to be hidden")
    client.write(data)
    assert client.get_action_result(action) is not None


@pytest.mark.parametrize("offset", [0, 500, 999])
def test_s15_a_flipped_byte_in_the_catalogue_is_found_after_the_verify_age(
    offset: int, data_dir: Path
) -> None:
    data = small_blob(1000)
    digest = digest_of(data)
    settings = {"storage": {"verify-after": 0}}
    with serve(data_dir, settings) as node, Client(node.address) as client:
        assert client.batch_update([data]) == [OK]
        assert node.stop() == 0
        wrong = bytearray(data)
        wrong[offset] ^= 1
        with catalogue(data_dir, write=True) as connection:
            connection.execute("UPDATE small SET data = ?", (bytes(wrong),))
        node.start()
        with Client(node.address) as again:
            assert again.batch_read([digest]) == {}
            _assert_found_and_healed(node, again, data)


def test_s15_a_flipped_byte_below_the_file_system_is_found_by_the_next_scrub(
    disk: Disk, tmp_path: Path
) -> None:
    """Neither size nor ctime of the file tells: only its bytes do.

    A scrub takes what was not verified for seven times verify-after.
    """
    settings = {"storage": {"scrub": {"rate": "1G"}, "verify-after": "100ms"}}
    data = file_blob()
    data_dir = disk.mount_point / "data"
    with serve(data_dir, settings, files_dir=tmp_path) as node, Client(node.address) as client:
        client.write(data)
        assert node.stop() == 0
        _flip_below(disk, data)
        pass_time(0.7)
        node.start()
        with Client(node.address) as again:
            wait_until(
                lambda: node.metrics().value("federation_quarantined_total") == 1,
                "the scrub to find it",
                timeout_s=60,
            )
            assert again.find_missing([digest_of(data)]) == {digest_of(data)}
            assert again.write(data) == len(data)
            assert again.read(digest_of(data)) == data
        assert node.stop() == 0
    assert_clean(data_dir)


def test_s15_a_flipped_byte_below_the_file_system_is_found_by_a_read_after_the_verify_age(
    disk: Disk, tmp_path: Path
) -> None:
    settings = {"storage": {"scrub": {"rate": 0}, "verify-after": 0}}
    data = file_blob(_BLOB_BYTES)
    data_dir = disk.mount_point / "data"
    with serve(data_dir, settings, files_dir=tmp_path) as node, Client(node.address) as client:
        client.write(data)
        assert node.stop() == 0
        _flip_below(disk, data)
        node.start()
        with Client(node.address) as again:
            _assert_found_and_healed(node, again, data)
        assert node.stop() == 0


def _flip_below(disk: Disk, data: bytes) -> None:
    """Change a byte of a file on the device itself, the file system being away."""
    disk.umount()
    image = disk.image.read_bytes()
    at = image.find(data[4096:8192])
    assert at > 0, "the blob's bytes are not on the device"
    _flip(disk.image, at)
    disk.mount()


def test_s17_mode_000_is_not_found_and_heals(data_dir: Path) -> None:
    data = file_blob()
    prefix = []
    if os.geteuid() == 0:  # root reads everything: take that right away
        prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
    with serve(data_dir, prefix=prefix) as node, Client(node.address) as client:
        client.write(data)
        _path(node, digest_of(data)).chmod(0)
        assert outcome(lambda: client.read(digest_of(data))) is NOT_FOUND
        assert client.write(data) == len(data)
        assert client.read(digest_of(data)) == data
        assert_clean(data_dir)


def test_s20_stray_files_are_never_served_and_go_away(data_dir: Path) -> None:
    with serve(data_dir) as node, Client(node.address) as client:
        held = file_blob()
        client.write(held)
        node.kill()
        strays = _scatter_strays(data_dir, number=120)
        node.start()
        with Client(node.address) as again:
            assert again.find_missing(strays) == set(strays)
            assert outcome(lambda: again.read(strays[0])) is NOT_FOUND
            wait_until(lambda: not leftovers(data_dir), "the sweep to remove them", timeout_s=60)
            assert again.read(digest_of(held)) == held
            assert again.write(b"a" * 100_000) == 100_000
    assert_clean(data_dir)


def _scatter_strays(data_dir: Path, number: int) -> list[Digest]:
    """Files as a crash or a person may leave them: rightly named, wrongly named, not named so."""
    digests = []
    for n in range(number):
        data = os.urandom(20_000)
        digest = digest_of(data)
        path = blob_path(data_dir, digest.hash_hex, digest.size_bytes)
        path.write_bytes(data if n % 3 else os.urandom(20_000))
        digests.append(digest)
    (data_dir / "blobs" / "00" / "README").write_bytes(b"not a blob")
    (data_dir / "blobs" / "00" / "folder").mkdir()
    return digests


@pytest.fixture
def many_leftovers(data_dir: Path) -> Iterator[Path]:
    """A directory with 10,000 files that uploads left when their process was killed."""
    with serve(data_dir) as node:
        node.kill()
    for number in range(10_000):
        (data_dir / "incoming" / f"0123456789ab-{number}").write_bytes(b"half a blob")
    yield data_dir
    assert_clean(data_dir)


def test_s21_left_over_temporary_files_go_away_and_do_not_slow_the_start(
    many_leftovers: Path,
) -> None:
    with serve(many_leftovers) as node, Client(node.address) as client:
        assert node.start_s < 30
        assert client.batch_update([small_blob()]) == [OK]
        wait_until(lambda: not leftovers(many_leftovers), "the sweep", timeout_s=60)
