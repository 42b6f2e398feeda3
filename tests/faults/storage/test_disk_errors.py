"""Disks that answer with errors or not at all: S07, S08, S14, S32, S33."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc

from federation.core.digest import digest_of
from tests.faults.storage.clean import assert_clean, blob_path
from tests.faults.storage.conftest import file_blob, small_blob
from tests.faults.storage.strace import attached, injected
from tests.support.oracle import Oracle
from tests.support.polling import wait_until
from tests.support.process import Node
from tests.support.process_client import Client, code_of, outcome

OK = grpc.StatusCode.OK
_READS = ("read", "pread64", "preadv", "preadv2")


def test_s07_a_blob_file_that_cannot_be_made_durable_is_not_acknowledged(
    node: Node, client: Client, tmp_path: Path
) -> None:
    data, trace = file_blob(), tmp_path / "trace"
    # The blob's own fdatasync comes first in each thread, before the catalogue's.
    with attached(node, "fdatasync:error=EIO:when=1", out=str(trace)):
        code = outcome(lambda: client.write(data))
    assert injected(trace) == 1, trace.read_text()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert client.find_missing([digest_of(data)]) == {digest_of(data)}
    assert client.write(data) == len(data)
    assert client.read(digest_of(data)) == data
    assert_clean(node.data_dir)


def test_s07_in_a_batch_only_the_file_that_cannot_be_made_durable_is_not_acknowledged(
    node: Node, client: Client, tmp_path: Path
) -> None:
    blobs, trace = [file_blob(100_000) for _ in range(5)], tmp_path / "trace"
    (lock,) = (node.data_dir / "run").glob("*.lock")
    second = node.data_dir / "incoming" / f"{lock.stem}-1"  # they are numbered as they come
    with attached(node, "fdatasync:error=EIO", paths=[second], out=str(trace)):
        codes = client.batch_update(blobs)
    assert injected(trace) == 1, trace.read_text()
    assert codes == [OK, grpc.StatusCode.UNAVAILABLE, OK, OK, OK]
    assert client.find_missing([digest_of(data) for data in blobs]) == {digest_of(blobs[1])}
    assert client.batch_update(blobs) == [OK] * 5
    assert client.batch_read(map(digest_of, blobs)) == {digest_of(data): data for data in blobs}
    assert_clean(node.data_dir)


def test_s08_a_catalogue_that_cannot_be_made_durable_gives_no_ok(
    node: Node, client: Client, oracle: Oracle, tmp_path: Path
) -> None:
    before = [small_blob() for _ in range(5)]
    assert set(client.batch_update(before)) == {grpc.StatusCode.OK}
    oracle.acknowledged(*map(digest_of, before))
    large, trace = file_blob(), tmp_path / "trace"
    wal = node.data_dir / "catalogue.sqlite-wal"
    oracle.attempt([digest_of(large)])
    with attached(node, "fdatasync:error=EIO", "fsync:error=EIO", paths=[wal], out=str(trace)):
        outcomes = _write_together(node, client, oracle, large)
    assert injected(trace) > 0, "the catalogue's fsync was never reached"
    assert grpc.StatusCode.OK not in outcomes, outcomes
    if node.running:  # read-only is one of the two allowed ends; then it stays so, and says so
        oracle.verify(client).check()
        assert grpc.StatusCode.OK not in _codes(client, [small_blob()])
        assert client.find_missing([digest_of(before[0])]) == set()
        wait_until(lambda: node.http_get("/readyz")[0] == 503, "/readyz to say so")
    node.kill()
    node.start()
    with Client(node.address) as again:
        oracle.verify(again).check()
        oracle.verify_unacknowledged(again).check()
        again.write(large)
    assert_clean(node.data_dir)


def _write_together(
    node: Node, client: Client, oracle: Oracle, large: bytes
) -> list[grpc.StatusCode]:
    """Several uploads at once, so that they share transactions."""
    outcomes: list[grpc.StatusCode] = []

    def write_large() -> None:
        with Client(node.address) as own:
            outcomes.append(outcome(lambda: own.write(large)))

    def write_small() -> None:
        blobs = [small_blob() for _ in range(3)]
        oracle.attempt(map(digest_of, blobs))
        outcomes.extend(_codes(client, blobs))

    threads = [threading.Thread(target=write_small) for _ in range(4)]
    threads.append(threading.Thread(target=write_large))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) >= len(threads), outcomes
    return outcomes


def _codes(client: Client, blobs: list[bytes]) -> list[grpc.StatusCode]:
    try:
        return client.batch_update(blobs)
    except grpc.RpcError as error:
        return [code_of(error)]


def test_s14_a_blob_that_cannot_be_read_is_missing_before_its_first_byte(
    node: Node, client: Client
) -> None:
    data = file_blob()
    digest = digest_of(data)
    client.write(data)
    path = blob_path(node.data_dir, digest.hash_hex, digest.size_bytes)
    with attached(node, *(f"{call}:error=EIO" for call in _READS), paths=[path]):
        assert outcome(lambda: client.read(digest)) is grpc.StatusCode.NOT_FOUND
    _assert_healed_by_upload(node, client, data)


def test_s14_a_blob_that_cannot_be_read_on_ends_in_data_loss(node: Node, client: Client) -> None:
    data = file_blob(48 * 2**20)
    digest = digest_of(data)
    client.write(data)
    path = blob_path(node.data_dir, digest.hash_hex, digest.size_bytes)
    got: list[int] = []
    with attached(node, *(f"{call}:error=EIO:when=3+" for call in _READS), paths=[path]):
        code = outcome(lambda: got.extend(map(len, client.read_chunks(digest))))
    assert code is grpc.StatusCode.DATA_LOSS
    assert 0 < sum(got) < len(data)
    _assert_healed_by_upload(node, client, data)


def _assert_healed_by_upload(node: Node, client: Client, data: bytes) -> None:
    digest = digest_of(data)
    wait_until(lambda: client.find_missing([digest]), "the damaged blob to be missing")
    wait_until(
        lambda: node.metrics().value("federation_quarantined_total") == 1, "it to be counted"
    )
    assert client.write(data) == len(data)
    assert client.read(digest) == data
    assert_clean(node.data_dir)


def test_s32_slow_fdatasync_slows_writes_and_nothing_else(node: Node, client: Client) -> None:
    held = small_blob()
    client.batch_update([held])
    with attached(node, "fdatasync:delay_enter=500000"):
        before, commits = _loop_lag(node), _commits(node)
        writers = [threading.Thread(target=_write_some, args=(node, 5)) for _ in range(8)]
        for writer in writers:
            writer.start()
        reads = 0
        while any(writer.is_alive() for writer in writers):
            assert client.batch_read([digest_of(held)]) == {digest_of(held): held}
            assert node.http_get("/healthz")[0] == 200
            reads += 1
        for writer in writers:
            writer.join()
        late, commits = _loop_lag(node) - before, _commits(node) - commits
    assert commits < 40, "each durable write was one of its own"
    # If reads waited for the disk, too, there would be one for each of these half seconds.
    assert reads > 2 * commits, f"{reads} reads while writers waited for the disk {commits} times"
    # Were one of them waited for on the event loop, it would be late each time.
    assert late <= commits / 2, f"the event loop was late by more than 250 ms {late} times"
    assert_clean(node.data_dir)


def _write_some(node: Node, number: int) -> None:
    with Client(node.address) as client:
        for _ in range(number):
            assert client.batch_update([small_blob()]) == [grpc.StatusCode.OK]


def _commits(node: Node) -> float:
    return node.metrics().value("federation_commit_seconds_count")


def _loop_lag(node: Node) -> float:
    """How often the event loop was late by more than 250 ms."""
    name = "federation_event_loop_lag_seconds"
    metrics = node.metrics()
    return metrics.value(f"{name}_count") - metrics.value(f"{name}_bucket", le="0.25")


def test_s33_while_the_disk_hangs_there_is_no_ok_and_reads_go_on(
    node: Node, client: Client
) -> None:
    held, lost = small_blob(), small_blob()
    client.batch_update([held])
    with (
        attached(node, "fdatasync:delay_enter=14000000"),
        Client(node.address, timeout_s=2) as hasty,
    ):
        code = outcome(lambda: hasty.batch_update([lost]))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert client.batch_read([digest_of(held)]) == {digest_of(held): held}
        wait_until(lambda: node.http_get("/readyz")[0] == 503, "/readyz to say degraded")
    wait_until(lambda: node.http_get("/readyz")[0] == 200, "/readyz to recover")
    assert client.batch_update([lost]) == [grpc.StatusCode.OK]
    assert_clean(node.data_dir)
