"""No room: S09-S13 on a small disk, S24 and S25 under a small quota. Reads always go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.core.digest import Digest, digest_of
from tests.faults.storage.clean import assert_clean
from tests.faults.storage.conftest import file_blob, small_blob
from tests.faults.storage.disks import fill, tmpfs
from tests.faults.storage.strace import attached, injected
from tests.support.oracle import Oracle
from tests.support.polling import wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client, outcome, write_requests

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
OK = grpc.StatusCode.OK
# The quota is stated, so that the node does not refuse before the disk itself does.
_ROOMY = {"storage": {"quota": "10G", "reserve": 0}}


@pytest.fixture
def small_node(small_disk: Path, tmp_path: Path) -> Iterator[Node]:
    with serve(small_disk / "data", _ROOMY, files_dir=tmp_path) as node:
        yield node


class _Paused:
    """An upload that stops half-way until it is told to go on."""

    def __init__(self, name: str, data: bytes) -> None:
        self.at_half = threading.Event()
        self.go_on = threading.Event()
        self._requests = write_requests(name, data)
        self._half = len(data) // 2

    def __iter__(self) -> Iterator[bs.WriteRequest]:
        for request in self._requests:
            if request.write_offset >= self._half and not self.at_half.is_set():
                self.at_half.set()
                assert self.go_on.wait(60), "never told to go on"
            yield request


def _fill_during_upload(node: Node, client: Client, data: bytes, disk: Path) -> Path:
    """Upload half, take all room away, upload the rest: it must be refused."""
    upload = _Paused(client.upload_name(digest_of(data)), data)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(
            outcome, lambda: client.bytestream.Write(iter(upload), timeout=client.timeout_s)
        )
        assert upload.at_half.wait(30)
        # Let what was sent arrive, so that the room really ends in the middle of the blob.
        incoming = node.data_dir / "incoming"
        wait_until(
            lambda: sum(p.stat().st_size for p in incoming.iterdir()) > len(data) // 4,
            "half of the upload on the disk",
        )
        filler = fill(disk)
        upload.go_on.set()
        assert call.result(60) is FULL
    return filler


def test_s09_the_disk_fills_in_the_middle_of_a_large_blob(
    small_node: Node, small_disk: Path
) -> None:
    held, data = file_blob(), file_blob(24 * 2**20)
    with Client(small_node.address) as client:
        client.write(held)
        filler = _fill_during_upload(small_node, client, data, small_disk)
        wait_until(lambda: not any((small_node.data_dir / "incoming").iterdir()), "tmp gone")
        assert client.read(digest_of(held)) == held
        filler.unlink()
        assert client.batch_update([small_blob()]) == [OK]
        assert client.find_missing([digest_of(data)]) == {digest_of(data)}
        # The disk is looked at once a second.
        wait_until(lambda: outcome(lambda: client.write(data)) is OK, "room")
    assert_clean(small_node.data_dir)


def test_s10_no_room_for_the_catalogue_refuses_writes_until_there_is(
    small_node: Node, small_disk: Path
) -> None:
    held = small_blob()
    with Client(small_node.address) as client:
        assert client.batch_update([held]) == [OK]
        filler = fill(small_disk)
        codes = _until_refused(client)
        assert codes[-1] is FULL
        assert set(codes[:-1]) <= {OK}
        assert client.batch_read([digest_of(held)]) == {digest_of(held): held}
        assert small_node.http_get("/metrics")[0] == 200
        filler.unlink()
        wait_until(lambda: _update(client, small_blob()) == [OK], "writes to go on again")
    assert_clean(small_node.data_dir)


def _until_refused(client: Client) -> list[grpc.StatusCode]:
    """Write until the catalogue has used up what room it had of its own."""
    codes: list[grpc.StatusCode] = []
    while len(codes) < 5000 and (not codes or codes[-1] is OK):
        codes += _update(client, small_blob(12_000))
    return codes


def _update(client: Client, *blobs: bytes) -> list[grpc.StatusCode]:
    """The code of each item, also where the call failed as a whole."""
    codes: list[grpc.StatusCode] = []
    call = outcome(lambda: codes.extend(client.batch_update(blobs)))
    return codes or [call] * len(blobs)


@pytest.mark.parametrize("file", ["catalogue.sqlite-wal", "catalogue.sqlite"])
def test_s10_enospc_on_wal_append_and_on_checkpoint(
    file: str, data_dir: Path, oracle: Oracle, tmp_path: Path
) -> None:
    # With such a quota SQLite wants a checkpoint after 5 MB.
    with serve(data_dir, {"storage": {"quota": "300M"}}) as node, Client(node.address) as client:
        _refuse_room_for_catalogue(file, node, client, oracle, tmp_path / "trace")


def _refuse_room_for_catalogue(
    file: str, node: Node, client: Client, oracle: Oracle, trace: Path
) -> None:
    held = small_blob()
    assert client.batch_update([held]) == [OK]
    calls = ("pwrite64", "write", "ftruncate", "fallocate")
    paths = [node.data_dir / file]
    with attached(node, *(f"{c}:error=ENOSPC" for c in calls), paths=paths, out=str(trace)):
        for _ in range(5):  # enough pages for SQLite to want a checkpoint
            blobs = [small_blob(15_000) for _ in range(200)]
            oracle.attempt(map(digest_of, blobs))
            codes = _update(client, *blobs)
            assert set(codes) <= {OK, FULL}, codes
            kept = [b for b, code in zip(blobs, codes, strict=True) if code is OK]
            oracle.acknowledged(*map(digest_of, kept))
        assert client.batch_read([digest_of(held)]) == {digest_of(held): held}
    assert injected(trace) > 0, f"{file} was never written"
    wait_until(lambda: _update(client, small_blob()) == [OK], "writes to go on again")
    oracle.verify(client).check()
    oracle.verify_unacknowledged(client).check()
    assert_clean(node.data_dir)


def test_s10_eviction_frees_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    settings = {"storage": {"quota": "40M", "lease": "1s", "reserve": 0}}
    with (
        serve(small_disk / "data", settings, files_dir=tmp_path) as node,
        Client(node.address) as client,
    ):
        for _ in range(18):
            client.write(file_blob(2 * 2**20))
        filler = fill(small_disk)
        wait_until(
            lambda: node.metrics().value("federation_evicted_total") > 0,
            "eviction to make room",
        )
        filler.unlink()
        wait_until(lambda: _update(client, small_blob()) == [OK], "writes to go on again")
        assert_clean(node.data_dir)


def test_s11_no_inodes_left(tmp_path: Path) -> None:
    with (
        tmpfs(tmp_path / "few", size="64m", inodes=400) as few,
        serve(few / "data", _ROOMY, files_dir=tmp_path) as node,
        Client(node.address) as client,
    ):
        held = file_blob()
        client.write(held)
        takers = _take_inodes(few)
        data = file_blob()
        assert outcome(lambda: client.write(data)) is FULL
        assert client.read(digest_of(held)) == held
        assert client.batch_update([small_blob()]) == [OK]
        for taker in takers:
            taker.unlink()
        assert client.write(data) == len(data)
        assert_clean(node.data_dir)


def _take_inodes(folder: Path) -> list[Path]:
    takers: list[Path] = []
    try:
        while True:
            taker = folder / f"taker{len(takers)}"
            taker.touch()
            takers.append(taker)
    except OSError:
        assert takers, "there was no inode from the start"
    return takers


def test_s12_a_full_disk_at_start_truncates_nothing(small_disk: Path, tmp_path: Path) -> None:
    """It starts and serves reads, or says in one line why not; room again, all is as it was."""
    held = [file_blob(), small_blob()]
    data_dir = small_disk / "data"
    with (
        serve(data_dir, _ROOMY, files_dir=tmp_path) as node,
        Client(node.address) as client,
    ):
        for data in held:
            client.write(data)
        node.kill()
    filler = fill(small_disk)
    with Node(data_dir, _ROOMY, files_dir=tmp_path, name="full") as node:
        node.launch()
        try:
            node.wait_ready()
        except AssertionError:
            assert node.log, "no word of why it does not start"
            assert "Traceback" not in node.log, node.log
        else:
            with Client(node.address) as client:
                assert client.read(digest_of(held[0])) == held[0]
            node.kill()
    filler.unlink()
    with (
        serve(data_dir, _ROOMY, files_dir=tmp_path, name="again") as node,
        Client(node.address) as client,
    ):
        for data in held:
            assert client.read(digest_of(data)) == data
        assert client.batch_update([small_blob()]) == [OK]
    assert_clean(data_dir)


def test_s12_a_full_disk_at_the_very_first_start(small_disk: Path, tmp_path: Path) -> None:
    filler = fill(small_disk, leave_bytes=200_000)
    with Node(small_disk / "data", _ROOMY, files_dir=tmp_path, name="first") as node:
        node.launch()
        try:
            node.wait_ready()
        except AssertionError:
            assert node.log, "no word of why it does not start"
            assert "Traceback" not in node.log, node.log
    filler.unlink()
    with (
        serve(small_disk / "data", _ROOMY, files_dir=tmp_path) as node,
        Client(node.address) as client,
    ):
        assert client.batch_update([small_blob()]) == [OK]


def test_s13_a_quota_larger_than_the_disk_is_cut_to_it(small_disk: Path, tmp_path: Path) -> None:
    settings = {"storage": {"quota": "10G", "lease": "1h"}}
    with (
        serve(small_disk / "data", settings, files_dir=tmp_path) as node,
        Client(node.address) as client,
    ):
        assert node.metrics().value("federation_quota_bytes") < 64 * 2**20
        stored: list[Digest] = []
        while (code := outcome(lambda: stored.append(_written(client)))) is OK:
            assert len(stored) < 64, "more was stored than the disk has room for"
        assert code is FULL
        assert "No space left" not in node.log, "the disk ran full before the node refused"
        assert client.find_missing(stored) == set()
        assert client.read(stored[0])
    assert_clean(node.data_dir)


def _written(client: Client) -> Digest:
    data = file_blob(2 * 2**20)
    client.write(data)
    return digest_of(data)


def _name_only(digest: Digest, client: Client) -> Iterator[bs.WriteRequest]:
    yield bs.WriteRequest(resource_name=client.upload_name(digest), data=b"x")


def test_s24_what_can_never_fit_is_refused_by_its_name(data_dir: Path) -> None:
    settings = {"storage": {"quota": "20M", "max-blob": "1G", "lease": "1s"}}
    with serve(data_dir, settings) as node, Client(node.address) as client:
        held = [file_blob(2**20) for _ in range(5)]
        for data in held:
            client.write(data)
        for size, code in ((30 * 2**20, FULL), (2 * 2**30, grpc.StatusCode.INVALID_ARGUMENT)):
            digest = Digest(digest_of(b"x").hash, size)
            requests = _name_only(digest, client)
            assert outcome(partial(client.bytestream.Write, requests, timeout=60)) is code
        assert client.find_missing(map(digest_of, held)) == set()
        assert node.metrics().value("federation_evicted_total") == 0
        assert_clean(data_dir)


def test_s25_uploads_that_bring_nothing_take_no_room(data_dir: Path) -> None:
    """100 uploads of 20 % of the quota each, all open at once with a byte each."""
    size = 4 * 2**20
    settings = {
        "storage": {"quota": 5 * size, "lease": "1s"},
        "limits": {"upload-idle": "1s"},
    }
    with serve(data_dir, settings) as node, Client(node.address) as client:
        held = [file_blob(size) for _ in range(3)]
        for data in held:
            client.write(data)
        with Client(node.address) as other:
            calls = [_open_upload(other, number, size) for number in range(100)]
            wait_until(
                lambda: node.metrics().value("federation_uploads_open") == 100, "all to be open"
            )
            client.write(file_blob(size))
            assert not any(call.done() for call in calls)
        assert client.find_missing(map(digest_of, held)) == set()
        assert node.metrics().value("federation_evicted_total") == 0
        assert_clean(data_dir)


def test_s25_parallel_uploads_never_exceed_the_quota(data_dir: Path) -> None:
    """100 uploads of 20 % of the quota each bring all but the last byte, at once."""
    size = 4 * 2**20
    settings = {
        "storage": {"quota": 5 * size, "lease": "1h"},
        "limits": {"upload-idle": "1s", "upload-bytes-per-caller": 0},
    }
    with serve(data_dir, settings) as node:
        with Client(node.address) as client:
            calls = [_open_upload(client, number, size, size - 1) for number in range(100)]
            wait_until(lambda: sum(c.done() for c in calls) >= 80, "most to be refused")
            assert {c.code() for c in calls if c.done()} == {FULL}
            wait_until(lambda: _bytes_in(data_dir / "incoming") <= 5 * size, "what lost to go")
        with Client(node.address) as client:
            wait_until(
                lambda: outcome(lambda: client.write(file_blob(4 * size))) is OK,
                "the reservations to be given back",
            )
        assert_clean(data_dir)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _open_upload(client: Client, number: int, size: int, sent_bytes: int = 1) -> Any:
    """Send a name and some bytes of a blob, and no more until the channel is closed."""
    digest = Digest(digest_of(b"%d" % number).hash, size)
    name = client.upload_name(digest)
    pause = threading.Event()
    client.at_close(pause.set)

    def requests() -> Iterator[bs.WriteRequest]:
        step = 2**20
        for at in range(0, sent_bytes, step):
            yield bs.WriteRequest(
                resource_name=name, write_offset=at, data=bytes(min(step, sent_bytes - at))
            )
        pause.wait(60)

    return client.bytestream.Write.future(requests(), timeout=60)
