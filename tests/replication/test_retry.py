"""What is parked is tried again, each object by itself, however much is parked."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from federation.core.replication_log import Parked
from federation.replication.outcomes import FORGOTTEN_MAX, Fault, ForgottenBlobs
from federation.replication.retry import AT_ONCE
from tests.remote.fake_server import Context, FakeServer, fails
from tests.replication.here import asset_of, peer, remembering, replicating
from tests.support.memory_ledger import MemoryStorage

pytestmark = pytest.mark.slow


async def test_what_is_due_is_tried_however_much_was_parked_before_it(fake: FakeServer) -> None:
    """The oldest that are parked, as many as are looked at together, are not due for an hour."""
    storage = MemoryStorage(clock=SystemClock())
    async with remembering(peer(fake.address), storage=storage) as here:
        await here.caught_up()
        now_s = storage.clock.wall_s()
        waits = [digest_of(b"waits %d" % at) for at in range(AT_ONCE + 200)]
        rows = [Parked("there", 1, each, None, "waits", "no", now_s, tries=9) for each in waits]
        due = digest_of(b"due")
        storage.add(due, b"due")  # which the log does not tell of
        rows.append(Parked("there", 1, due, None, "due", "no", now_s - 11))
        for row in rows:
            assert row.digest is not None
            storage.parked["there", row.digest] = row
        await here.until(lambda: due in fake.blobs)
        await here.until(lambda: ("there", due) not in storage.parked)
        assert len(storage.parked) == len(waits)


async def test_a_blob_that_the_peer_forgets_holds_up_no_other_retry(fake: FakeServer) -> None:
    forgotten = digest_of(b"forgotten")
    keeps = fake._BatchUpdateBlobs

    async def forgets(request: bytes, context: Context) -> bytes:
        answer = await keeps(request, context)
        fake.blobs.pop(forgotten, None)
        return answer

    async with remembering(peer(fake.address)) as here:
        await here.caught_up()
        invalid = grpc.StatusCode.INVALID_ARGUMENT

        async def refuses(request: bytes, _context: Context) -> bytes:
            message = reapi.BatchUpdateBlobsRequest.FromString(request)
            answer = reapi.BatchUpdateBlobsResponse()
            for each in message.requests:
                answer.responses.add(digest=each.digest).status.code = invalid.value[0]
            return answer.SerializeToString()

        fake.does["BatchUpdateBlobs"] = refuses
        fake.does["PushBlob"] = fails(invalid)
        (needed, _) = await here.push(b"needed", b"forgotten")
        await here.put(asset_of("urn:a", needed), asset_of("urn:b", forgotten))
        await here.caught_up()
        await here.until(lambda: here.facts()["parked"] == 4)
        fake.does = {"BatchUpdateBlobs": forgets}
        await here.ledger.ask_retry()
        await here.until(lambda: here.facts()["forgotten"] >= 1)
        await here.until(lambda: "urn:a" in fake.assets)
        await here.until(lambda: here.facts()["parked"] == 2)
        later = await here.push(b"later")
        await here.put(asset_of("urn:c", *later))
        await here.until(lambda: "urn:c" in fake.assets)


def test_a_blob_counts_as_forgotten_for_good_only_while_others_are_kept() -> None:
    blobs = ForgottenBlobs()
    for _ in range(3 * FORGOTTEN_MAX):
        assert blobs.forgot("one") is Fault.UNCLEAR  # it keeps nothing at all
    found = []
    for at in range(FORGOTTEN_MAX - 1):
        blobs.kept(at)
        found.append(blobs.forgot("one"))
    assert found == [Fault.UNCLEAR] * (FORGOTTEN_MAX - 2) + [Fault.OBJECT]
    assert blobs.forgot("two") is Fault.UNCLEAR


async def test_r20_nobody_is_told_that_a_peer_has_what_a_resync_has_not_brought_yet(
    fake: FakeServer, tmp_path: Path
) -> None:
    async with replicating(tmp_path) as here:
        await here.push(b"before")
        fake.does["BatchUpdateBlobs"] = fails(grpc.StatusCode.RESOURCE_EXHAUSTED)
        await here.replication.reload([peer(fake.address)])
        await here.until(lambda: here.facts().get("state") == "full")
        ledger = here.storage.ledger  # type: ignore[union-attr]
        head = ledger.head()
        assert not await ledger.wait_acknowledged(head, ["there"], 1, 0.2)
        await here.push(b"meanwhile")
        assert not await ledger.wait_acknowledged(ledger.head(), ["there"], 1, 0.2)
        fake.does.clear()
        await here.caught_up()
        assert digest_of(b"before") in fake.blobs
        assert await ledger.wait_acknowledged(ledger.head(), ["there"], 1, 20)
