"""What a peer may do to what is sent: each case against a scripted server over real gRPC."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import Digest, digest_of
from federation.core.provenance import Provenance, Source
from federation.core.replication_log import Lane, PeerRecord, PeerState
from federation.replication.outcomes import REFUSED_IN_A_ROW
from tests.remote.fake_server import (
    Context,
    FakeServer,
    UnaryDoes,
    Upload,
    fails,
    first_times,
    take,
)
from tests.replication.here import Here, asset_of, peer, remembering, result_of
from tests.support.memory_ledger import MemoryStorage

pytestmark = pytest.mark.slow

ACTION = digest_of(b"action")
BLOBS = [b"blob %d" % at for at in range(20)]


async def following(here: Here) -> None:
    await here.caught_up()


def refuses_items(
    fake: FakeServer, refused: Callable[[Digest], grpc.StatusCode | None]
) -> UnaryDoes:
    """Take a batch, but for some blobs of it."""

    async def do(request: bytes, context: Context) -> bytes:
        answer = reapi.BatchUpdateBlobsResponse.FromString(
            await fake._BatchUpdateBlobs(request, context)
        )
        for item in answer.responses:
            digest = Digest(bytes.fromhex(item.digest.hash), item.digest.size_bytes)
            if (code := refused(digest)) is not None:
                item.status.code = code.value[0]
                fake.blobs.pop(digest, None)
        return answer.SerializeToString()

    return do


async def parked_reasons(here: Here) -> dict[str, str]:
    return {each.label: each.reason for each in await here.ledger.parked("there")}


# -- order ---------------------------------------------------------------------------------------


async def test_r13_an_entry_comes_only_after_its_whole_closure(fake: FakeServer) -> None:
    missing: list[str] = []
    good = fake._UpdateActionResult

    async def checks(request: bytes, context: Context) -> bytes:
        result = reapi.UpdateActionResultRequest.FromString(request).action_result
        missing.extend(
            each.digest.hash
            for each in result.output_files
            if fake.held(each.digest, digest_of(b"").function) is None
        )
        return await good(request, context)

    fake.does["UpdateActionResult"] = checks
    async with remembering(peer(fake.address)) as here:
        await following(here)
        for at in range(30):
            digests = await here.push(b"%d a" % at, b"%d b" % at * 50_000)
            await here.put(result_of(digest_of(b"action %d" % at), *digests))
        await here.caught_up()
    assert len(fake.results) == 30
    assert missing == []


async def test_r13_what_a_peer_lost_is_sent_again_when_it_refuses_the_entry(
    fake: FakeServer,
) -> None:
    async with remembering(peer(fake.address)) as here:
        await following(here)
        (digest,) = await here.push(b"output")
        await here.caught_up()
        del fake.blobs[digest]
        fake.does["UpdateActionResult"] = first_times(
            1, fails(grpc.StatusCode.FAILED_PRECONDITION), fake._UpdateActionResult
        )
        await here.put(result_of(ACTION, digest))
        await here.caught_up()
        assert digest in fake.blobs
        assert ACTION.hash_hex in fake.results
        assert here.facts()["parked"] == 0


async def test_a_name_pushed_before_its_blobs_follows_them(fake: FakeServer) -> None:
    async with remembering(peer(fake.address)) as here:
        await following(here)
        await here.put(result_of(ACTION, digest_of(b"late")))
        await here.until(lambda: here.facts()["lanes"]["always"]["in-flight"] == 1)
        await here.push(b"late")
        await here.caught_up()
        assert ACTION.hash_hex in fake.results
        assert await here.ledger.parked() == []


async def test_r14_an_entry_whose_blob_vanished_is_parked_and_sent_once_it_is_back(
    fake: FakeServer,
) -> None:
    async with remembering(peer(fake.address)) as here:
        await following(here)
        await here.put(result_of(ACTION, digest_of(b"gone")))
        await here.caught_up()
        reasons = await parked_reasons(here)
        assert reasons == {str(ACTION): f"it needs blob {digest_of(b'gone')}, which is not here"}
        assert fake.results == {}
        await here.push(b"gone")
        assert await here.ledger.ask_retry("there") == 1
        await here.until(lambda: ACTION.hash_hex in fake.results)
        await here.until(lambda: here.facts()["parked"] == 0)


# -- peers that forget ---------------------------------------------------------------------------


async def test_r07_a_peer_that_says_ok_and_forgets_is_not_believed(fake: FakeServer) -> None:
    keeps = fake._BatchUpdateBlobs

    async def forgets(request: bytes, context: Context) -> bytes:
        answer = await keeps(request, context)
        fake.blobs.clear()
        return answer

    fake.does["BatchUpdateBlobs"] = forgets
    async with remembering(peer(fake.address)) as here:
        await following(here)
        await here.push(*BLOBS)
        await here.until(lambda: here.facts()["forgets"])
        assert here.facts()["lag-objects"] == len(BLOBS)
        assert here.facts()["lanes"]["always"]["cursor"] == 0
        fake.does.clear()
        await here.caught_up()
        assert len(fake.blobs) == len(BLOBS)


async def test_r07_a_check_finds_what_was_lost_in_silence_and_mends_it(fake: FakeServer) -> None:
    async with remembering(peer(fake.address, check_every="20s")) as here:
        await following(here)
        digests = await here.push(*BLOBS)
        await here.caught_up()
        for digest in digests[:5]:
            del fake.blobs[digest]
        await here.until(lambda: set(digests) <= set(fake.blobs), timeout_s=60)
        await here.until(lambda: here.facts()["forgotten"] == 5)
        assert here.facts()["forgets"]
        assert here.facts()["state"] == "following"


# -- objects that are refused --------------------------------------------------------------------


async def test_r09_a_parked_blob_does_not_block_the_rows_behind_it(fake: FakeServer) -> None:
    bad = digest_of(BLOBS[0])
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    fake.does["BatchUpdateBlobs"] = refuses_items(fake, lambda d: invalid if d == bad else None)
    async with remembering(peer(fake.address)) as here:
        await following(here)
        await here.push(*BLOBS)
        await here.put(result_of(ACTION, bad))
        await here.caught_up()
        assert len(fake.blobs) == len(BLOBS) - 1
        reasons = await parked_reasons(here)
        assert set(reasons) == {str(bad), str(ACTION)}
        assert "INVALID_ARGUMENT" in reasons[str(bad)]
        assert str(bad) in reasons[str(ACTION)]
        assert fake.results == {}
        fake.does.clear()
        await here.ledger.ask_retry()
        await here.until(lambda: ACTION.hash_hex in fake.results)
        assert bad in fake.blobs
        await here.until(lambda: here.facts()["parked"] == 0)


async def test_r09_a_blob_too_large_for_the_peer_is_parked(fake: FakeServer) -> None:
    fake.capabilities.cache_capabilities.max_cas_blob_size_bytes = 5_000_000
    async with remembering(peer(fake.address)) as here:
        await following(here)
        large = await here.write(b"x" * 5_000_001)
        fits = await here.write(b"x" * 5_000_000)
        await here.caught_up()
        assert fits in fake.blobs
        reasons = await parked_reasons(here)
        assert set(reasons) == {str(large)}
        assert "larger than the 5000000 bytes" in reasons[str(large)]


async def test_r09_one_blob_that_is_denied_while_others_are_taken_is_parked(
    fake: FakeServer,
) -> None:
    bad = digest_of(BLOBS[0])
    denied = grpc.StatusCode.PERMISSION_DENIED
    fake.does["BatchUpdateBlobs"] = refuses_items(fake, lambda d: denied if d == bad else None)
    async with remembering(peer(fake.address)) as here:
        await following(here)
        await here.push(*BLOBS)
        await here.until(lambda: here.facts()["lag-objects"] == 1)
        await here.push(b"another")
        await here.caught_up()
        assert set(await parked_reasons(here)) == {str(bad)}


async def test_r09_a_batch_that_is_denied_for_one_blob_is_halved(fake: FakeServer) -> None:
    bad = digest_of(BLOBS[3])

    async def denies(request: bytes, context: Context) -> bytes:
        message = reapi.BatchUpdateBlobsRequest.FromString(request)
        if bad.hash_hex in {each.digest.hash for each in message.requests}:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not that one")
        return await fake._BatchUpdateBlobs(request, context)

    fake.does["BatchUpdateBlobs"] = denies
    async with remembering(peer(fake.address)) as here:
        await following(here)
        await here.push(*BLOBS)
        await here.until(lambda: len(fake.blobs) == len(BLOBS) - 1)
        await here.push(b"another")
        await here.caught_up()
        assert set(await parked_reasons(here)) == {str(bad)}


async def test_r08_what_is_damaged_here_is_parked_and_r24_what_is_gone_is_skipped(
    fake: FakeServer,
) -> None:
    storage = MemoryStorage()
    async with remembering(storage=storage) as here:
        digests = await here.push(*BLOBS)
        storage.remove(digests[0])
        storage.remove(digests[1])
        storage.damaged.add(digests[0])
        await here.ledger.save([PeerRecord("there", state=PeerState.FOLLOWING, reason="")])
        await here.replication.reload([peer(fake.address)])
        facts = await here.caught_up()
        assert await parked_reasons(here) == {str(digests[0]): "damaged here"}
        assert facts["skipped"] == {"gone from here": 1}
        assert set(fake.blobs) == set(digests[2:])


# -- peers that do not answer, or have no room, or do not let us in ------------------------------


async def test_r10_a_peer_without_room_is_not_hammered(fake: FakeServer) -> None:
    """One refused call is one call on the wire; how the tries go on is in test_patience.py."""
    fake.does["BatchUpdateBlobs"] = fails(grpc.StatusCode.RESOURCE_EXHAUSTED)
    slow = {"retry-delay": 60_000}
    async with remembering(peer(fake.address, connection_config=slow)) as here:
        await following(here)
        await here.push(*BLOBS)
        await here.until(lambda: here.facts()["state"] == "full")
        assert here.facts()["next-try-in-s"] > 20
        assert here.facts()["lag-objects"] == len(BLOBS)
        assert "RESOURCE_EXHAUSTED" in here.facts()["last-error"]
        assert len(fake.calls("BatchUpdateBlobs")) == 1
        assert fake.calls("Write") == []


async def test_r10_a_peer_that_has_room_again_gets_everything(fake: FakeServer) -> None:
    fake.does["BatchUpdateBlobs"] = fails(grpc.StatusCode.RESOURCE_EXHAUSTED)
    async with remembering(peer(fake.address)) as here:
        await following(here)
        await here.push(*BLOBS)
        await here.until(lambda: len(fake.calls("BatchUpdateBlobs")) >= 4)
        assert here.facts()["state"] == "full"
        assert here.facts()["lag-objects"] == len(BLOBS)
        fake.does.clear()
        await here.caught_up()
        assert len(fake.blobs) == len(BLOBS)
        assert here.facts()["parked"] == 0


async def test_r10_the_time_that_a_peer_asks_for_is_given(fake: FakeServer) -> None:
    busy = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=1.5)
    fake.does["BatchUpdateBlobs"] = first_times(1, busy, fake._BatchUpdateBlobs)
    async with remembering(peer(fake.address)) as here:
        await following(here)
        await here.push(b"blob")
        await here.until(lambda: here.facts()["state"] == "full")
        assert here.facts()["next-try-in-s"] > 0.5
        await here.caught_up()


async def test_r26_a_peer_that_lets_nobody_in_loses_nothing(fake: FakeServer) -> None:
    denied = fails(grpc.StatusCode.PERMISSION_DENIED)
    async with remembering(peer(fake.address)) as here:
        await following(here)
        for method in ("BatchUpdateBlobs", "FindMissingBlobs", "UpdateActionResult"):
            fake.does[method] = denied
        digests = await here.push(*BLOBS)
        await here.put(result_of(ACTION, *digests))
        await here.until(lambda: here.facts()["state"] == "refused")
        await here.until(lambda: here.facts()["lag-objects"] == len(BLOBS) + 1)
        fake.does.clear()
        await here.caught_up()
        assert await here.ledger.parked() == []
        assert set(digests) <= set(fake.blobs)
        assert ACTION.hash_hex in fake.results


async def test_r26_a_peer_that_takes_no_writes_but_answers_questions_loses_nothing(
    fake: FakeServer,
) -> None:
    denied = fails(grpc.StatusCode.PERMISSION_DENIED)
    async with remembering(peer(fake.address)) as here:
        await following(here)
        fake.does["BatchUpdateBlobs"] = denied
        await here.push(*BLOBS)
        await here.until(lambda: here.facts()["state"] == "refused")
        await here.until(lambda: len(fake.calls("BatchUpdateBlobs")) > 8)
        assert await here.ledger.parked() == []
        fake.does.clear()
        await here.caught_up()
        assert await here.ledger.parked() == []
        assert len(fake.blobs) == len(BLOBS)


async def test_a_peer_that_refuses_everything_is_at_fault_and_not_the_objects(
    fake: FakeServer,
) -> None:
    invalid = fails(grpc.StatusCode.INVALID_ARGUMENT, "no such instance")
    async with remembering(peer(fake.address)) as here:
        await following(here)
        fake.does["BatchUpdateBlobs"] = invalid

        async def refuses(_upload: Upload, context: Context) -> None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such instance")

        fake.writes = refuses
        digests = await here.push(*(b"%d" % at for at in range(300)))
        await here.until(lambda: here.facts()["state"] == "refused")
        # What is parked is written, and told of, in one of the next passes of the event loop.
        await here.until(lambda: here.facts()["lag-objects"] == 300 - REFUSED_IN_A_ROW)
        assert len(await here.ledger.parked()) == REFUSED_IN_A_ROW
        fake.does.clear()
        fake.writes = take
        await here.caught_up()
        await here.ledger.ask_retry()
        await here.until(lambda: set(digests) <= set(fake.blobs))


async def test_r04_a_peer_that_comes_and_goes_gets_everything(fake: FakeServer) -> None:
    async with remembering(peer(fake.address)) as here:
        await following(here)
        digests: list[Digest] = []
        for round_ in range(3):
            await fake.stop()
            digests += await here.push(*(b"%d %d" % (round_, at) for at in range(10)))
            await here.until(lambda: here.facts()["state"] == "unreachable")
            await fake.start()
            await here.caught_up()
        assert set(digests) <= set(fake.blobs)
        assert here.facts()["sent-objects"] == len(digests)


# -- peers that lack a service -------------------------------------------------------------------


async def test_a_peer_without_action_cache_gets_the_rest_and_status_says_so(
    fake: FakeServer,
) -> None:
    fake.does["UpdateActionResult"] = fails(grpc.StatusCode.UNIMPLEMENTED)
    fake.capabilities.cache_capabilities.action_cache_update_capabilities.SetInParent()
    async with remembering(peer(fake.address)) as here:
        await following(here)
        digests = await here.push(*BLOBS)
        await here.put(result_of(ACTION, *digests), asset_of("urn:a", digests[0]))
        facts = await here.caught_up()
        assert facts["unsupported"] == {"ActionCache": 1}
        assert facts["skipped"] == {"the peer has no ActionCache": 1}
        assert set(fake.assets) == {"urn:a"}
        await here.put(result_of(digest_of(b"second"), digests[0]))
        facts = await here.caught_up()
        assert facts["unsupported"] == {"ActionCache": 2}
        assert len(fake.calls("UpdateActionResult")) == 1


@pytest.mark.parametrize("method", ["UpdateActionResult", "PushBlob"])
async def test_an_entry_is_never_passed_for_one_unimplemented_and_arrives_in_the_end(
    fake: FakeServer, method: str
) -> None:
    """A proxy's 404 reads as UNIMPLEMENTED, and is over in a moment."""
    good = getattr(fake, f"_{method}")
    fake.does[method] = first_times(1, fails(grpc.StatusCode.UNIMPLEMENTED), good)
    async with remembering(peer(fake.address)) as here:
        await following(here)
        digests = await here.push(*BLOBS)
        entries = [
            result_of(digest_of(b"%d" % at), digest)
            if method == "UpdateActionResult"
            else asset_of(f"urn:{at}", digest)
            for at, digest in enumerate(digests)
        ]
        await here.put(*entries)
        facts = await here.caught_up()
        there = fake.results if method == "UpdateActionResult" else fake.assets
        assert (len(there), facts["skipped"], facts["unsupported"]) == (len(entries) - 1, {}, {})
        (reason,) = (await parked_reasons(here)).values()
        assert "UNIMPLEMENTED" in reason
        await here.ledger.ask_retry()
        await here.until(lambda: len(there) == len(entries))
        await here.until(lambda: here.facts()["parked"] == 0)


async def test_a_question_that_went_astray_once_does_not_stop_replication(
    fake: FakeServer,
) -> None:
    async with remembering(peer(fake.address)) as here:
        await following(here)
        unimplemented = fails(grpc.StatusCode.UNIMPLEMENTED)
        fake.does["FindMissingBlobs"] = first_times(3, unimplemented, fake._FindMissingBlobs)
        digests = await here.push(*BLOBS)
        await here.caught_up()
        assert set(digests) <= set(fake.blobs)
        assert await here.ledger.parked() == []


async def test_a_look_that_went_astray_does_not_let_an_entry_overwrite_what_is_there(
    fake: FakeServer,
) -> None:
    async with remembering() as here:
        (mine, other) = await here.push(b"mine", b"other")
        await here.put(result_of(ACTION, mine))
        theirs = result_of(ACTION, other).value
        fake.results[ACTION.hash_hex] = theirs
        fake.does["GetActionResult"] = fails(grpc.StatusCode.UNIMPLEMENTED)
        await here.replication.reload([peer(fake.address)])
        await here.caught_up()
        assert set(await parked_reasons(here)) == {str(ACTION)}
        fake.does.clear()
        await here.ledger.ask_retry()
        await here.until(lambda: here.facts()["parked"] == 0)
        assert fake.results[ACTION.hash_hex] == theirs


# -- resync --------------------------------------------------------------------------------------


async def test_r23_what_a_trimmed_log_cannot_tell_is_compared_and_the_difference_sent(
    fake: FakeServer,
) -> None:
    storage = MemoryStorage()
    async with remembering(peer(fake.address), storage=storage) as here:
        await following(here)
        await here.push(*BLOBS[:5])
        await here.caught_up()
    async with remembering(storage=storage) as here:
        digests = await here.push(*BLOBS[5:])
        storage.trim(storage.head - 3)
        assert storage.records["there", Lane.ALWAYS].state is PeerState.NEEDS_RESYNC
    fake.asked.clear()
    async with remembering(peer(fake.address), storage=storage) as here:
        await here.caught_up()
        assert here.facts()["sent-objects"] == len(digests)
        assert set(digests) <= set(fake.blobs)


async def test_r23_rows_that_are_gone_without_a_mark_are_not_passed_over(
    fake: FakeServer,
) -> None:
    storage = MemoryStorage()
    async with remembering(peer(fake.address), storage=storage) as here:
        await following(here)
        await here.push(BLOBS[0])
        await here.caught_up()
    async with remembering(storage=storage) as here:
        digests = await here.push(*BLOBS[1:])
    record = storage.records["there", Lane.ALWAYS]
    assert record.state is PeerState.FOLLOWING
    storage.log = [row for row in storage.log if row.seq > record.cursor + 2]
    async with remembering(peer(fake.address), storage=storage) as here:
        await here.caught_up()
        assert set(digests) <= set(fake.blobs)


async def test_r22_a_cursor_beyond_the_end_starts_over(fake: FakeServer) -> None:
    storage = MemoryStorage()
    async with remembering(storage=storage) as here:
        digests = await here.push(*BLOBS)
    storage.records["there", Lane.ALWAYS] = PeerRecord("there")._replace(
        cursor=10_000, state=PeerState.FOLLOWING, reason=""
    )
    async with remembering(peer(fake.address), storage=storage) as here:
        await here.caught_up()
        assert set(digests) <= set(fake.blobs)
        await here.push(b"another")
        await here.caught_up()
        assert digest_of(b"another") in fake.blobs


async def test_a_reconcile_leaves_a_peer_without_stamps_what_it_has(fake: FakeServer) -> None:
    async with remembering() as here:
        (mine, other) = await here.push(b"mine", b"other")
        await here.put(result_of(ACTION, mine), asset_of("urn:a", mine), asset_of("urn:b", mine))
        theirs = result_of(ACTION, other).value
        fake.results[ACTION.hash_hex] = theirs
        fake.assets["urn:a"] = reapi.Digest(hash=other.hash_hex, size_bytes=other.size_bytes)
        await here.replication.reload([peer(fake.address)])
        await here.caught_up()
        assert fake.results[ACTION.hash_hex] == theirs
        assert fake.assets["urn:a"].hash == other.hash_hex
        assert fake.assets["urn:b"].hash == mine.hash_hex


async def test_what_came_from_the_peer_does_not_go_back(fake: FakeServer) -> None:
    fake.announces = [("federation-node", "the-peer"), ("federation-log", "e.5")]
    async with remembering(peer(fake.address)) as here:
        await following(here)
        fake.asked.clear()
        via = Provenance(Source.PEER, ("origin", "the-peer"), "there")
        (digest,) = await here.push(b"from there", provenance=via)
        await here.push(b"from elsewhere", provenance=Provenance(Source.PEER, ("x",), "y"))
        await here.caught_up()
        assert digest not in fake.blobs
        (call,) = fake.calls("BatchUpdateBlobs")
        assert call.metadata["federation-via"] == "x,here"
        assert call.metadata["federation-replicates"] == "1"


async def lost_all(fake: FakeServer, here: Here, *, as_node: str, log: str) -> None:
    """Let the peer come back empty, saying who it is and where its log ends, and be called."""
    await fake.stop()
    fake.blobs.clear()
    fake.announces = [("federation-node", as_node), ("federation-log", log)]
    await fake.start()
    await here.push(b"wakes it")


async def test_r20_another_node_at_the_same_address_gets_everything(fake: FakeServer) -> None:
    fake.announces = [("federation-node", "first"), ("federation-log", "e.5")]
    async with remembering(peer(fake.address)) as here:
        await following(here)
        digests = await here.push(*BLOBS)
        await here.caught_up()
        await lost_all(fake, here, as_node="second", log="f.0")
        await here.until(lambda: set(digests) <= set(fake.blobs))
        await here.caught_up()
        assert here.facts()["node-id"] == "second"


async def test_a_peer_put_back_from_a_backup_gets_what_it_lost(fake: FakeServer) -> None:
    fake.announces = [("federation-node", "same"), ("federation-log", "e.50")]
    async with remembering(peer(fake.address)) as here:
        await following(here)
        digests = await here.push(*BLOBS)
        await here.caught_up()
        await lost_all(fake, here, as_node="same", log="e.20")
        await here.until(lambda: set(digests) <= set(fake.blobs))
        await here.caught_up()


async def test_a_peer_that_is_this_node_is_left_alone(fake: FakeServer) -> None:
    fake.announces = [("federation-node", "here"), ("federation-log", "e.5")]
    async with remembering(peer(fake.address)) as here:
        await here.push(*BLOBS)
        await here.until(lambda: here.facts().get("state") == "itself")
        assert fake.blobs == {}
