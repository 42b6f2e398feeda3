"""A real sender, and a scripted peer that does to it what no good server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import Digest, digest_of
from tests.faults.replication.mesh import is_idle, only_peer
from tests.faults.replication.stub import Stub
from tests.faults.replication.work import action_of, name_all, noise, push
from tests.faults.storage.clean import catalogue
from tests.remote.fake_server import Context, UnaryDoes, fails
from tests.support.polling import wait_until
from tests.support.process import Node, federation, merged, serve
from tests.support.process_client import Client, action_result, message, outcome, value

QUICK = {"stall": "2s", "request-timeout": "5s", "retry-delay": 20}


@contextmanager
def sending(folder: Path, stub: Stub, **settings: Any) -> Iterator[Node]:
    """A node whose one peer is the stub, once they have met."""
    there = {"name": "there", "url": f"grpc://{stub.fake.address}", "connection-config": QUICK}
    there = merged(there, settings.pop("peer", {}))
    with serve(folder / "here", {"peers": [there], **settings}, name="here") as node:
        wait_until(lambda: is_idle(only_peer(node)), "they have met")
        yield node


def caught_up(node: Node, timeout_s: float = 60) -> dict[str, Any]:
    """Wait until the stub has all, as the node sees it."""
    try:
        wait_until(lambda: is_idle(only_peer(node)), "it has everything", timeout_s=timeout_s)
    except AssertionError as error:
        raise AssertionError(f"{error}: {only_peer(node)}\n{node.log_tail}") from None
    return only_peer(node)


def parked(node: Node) -> dict[str, str]:
    """What is parked, and why, as `federation parked` lists it."""
    done = federation("parked", "--json", "--config", str(node.config_path))
    assert done.returncode == 0, done.stderr
    return {each["object"]: each["reason"] for each in json.loads(done.stdout)["parked"]}


def refusing(stub: Stub, code: grpc.StatusCode, *refused: Digest) -> UnaryDoes:
    """Take every blob of a batch but these."""

    async def do(request: bytes, context: Context) -> bytes:
        answer = reapi.BatchUpdateBlobsResponse.FromString(
            await stub.fake._BatchUpdateBlobs(request, context)
        )
        for item in answer.responses:
            if value(item.digest) in refused:
                item.status.code = code.value[0]
                stub.fake.blobs.pop(value(item.digest), None)
        return answer.SerializeToString()

    return do


def test_r07_a_peer_that_says_ok_and_forgets(stub: Stub, tmp_path: Path) -> None:
    fake = stub.fake

    async def forgets(request: bytes, context: Context) -> bytes:
        answer = await fake._BatchUpdateBlobs(request, context)
        fake.blobs.clear()
        return answer

    with sending(tmp_path, stub) as node, Client(node.address) as client:
        fake.does["BatchUpdateBlobs"] = forgets
        digests = push(client, "r07", 5)
        wait_until(lambda: only_peer(node)["forgets"], "it is flagged")
        assert only_peer(node)["lag-objects"] == len(digests)  # so they stay where they are
        fake.does.clear()
        caught_up(node)
        assert set(digests) <= fake.blobs.keys()


def test_r07_what_a_peer_lost_in_silence_is_found_and_sent_again(
    stub: Stub, tmp_path: Path
) -> None:
    with sending(tmp_path, stub, peer={"check-every": "2s"}) as node, Client(node.address) as here:
        digests = push(here, "r07", 20)
        caught_up(node)
        for digest in digests[:3]:
            del stub.fake.blobs[digest]
        wait_until(lambda: set(digests) <= stub.fake.blobs.keys(), "they are back")
        wait_until(lambda: only_peer(node)["forgets"], "it is flagged")


def test_r08_what_is_damaged_here_is_parked_and_r24_what_is_gone_is_skipped(
    stub: Stub, tmp_path: Path
) -> None:
    with sending(tmp_path, stub) as node, Client(node.address) as client:
        stub.stop()
        damaged, whole = noise("damaged", 200_000), noise("whole", 200_000)
        gone = digest_of(noise("gone"))
        for data in (damaged, noise("gone"), whole):
            client.write(data)
        path = next(node.data_dir.glob(f"blobs/*/{digest_of(damaged).hash_hex}*"))
        path.write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
        node.stop()
        with catalogue(node.data_dir, write=True) as connection:
            connection.execute("DELETE FROM blob WHERE substr(key, 2) = ?", (gone.hash,))
        stub.start()
        node.start()
        shown = caught_up(node)
        assert stub.fake.blobs.keys() == {digest_of(whole)}
        assert parked(node) == {str(digest_of(damaged)): "damaged here"}
        assert shown["skipped"] == {"gone from here": 1}
        wait_until(lambda: only_peer(node)["parked"] == 1, "the count is shown")
        metric = node.metrics().value("federation_peer_parked_objects", peer="there")
        assert metric == 1  # what the alert rule looks at


def test_r09_what_a_peer_refuses_is_parked_until_it_is_tried_again(
    stub: Stub, tmp_path: Path
) -> None:
    fake = stub.fake
    with sending(tmp_path, stub) as node, Client(node.address) as client:
        refused, late = digest_of(noise("r09/7")), digest_of(noise("late/0"))
        fake.does["BatchUpdateBlobs"] = refusing(stub, grpc.StatusCode.INVALID_ARGUMENT, refused)
        digests = push(client, "r09", 20)
        client.update_action_result(action_of("r09", 0), action_result([("out", digests[0])]))
        client.update_action_result(action_of("r09", 1), action_result([("out", refused)]))
        caught_up(node)
        push(client, "late", 1)
        caught_up(node)
        assert set(digests) - fake.blobs.keys() == {refused}
        assert late in fake.blobs
        assert action_of("r09", 0).hash_hex in fake.results
        assert action_of("r09", 1).hash_hex not in fake.results  # it would dangle
        assert parked(node).keys() == {str(refused), str(action_of("r09", 1))}
        fake.does.clear()
        assert federation("parked", "retry", "--config", str(node.config_path)).returncode == 0
        wait_until(lambda: action_of("r09", 1).hash_hex in fake.results, "it is tried again")
        wait_until(lambda: only_peer(node)["parked"] == 0, "nothing is parked")


def test_r10_a_peer_without_room_is_left_alone_ever_longer(stub: Stub, tmp_path: Path) -> None:
    fake = stub.fake
    with sending(tmp_path, stub) as node, Client(node.address) as client:
        fake.does["BatchUpdateBlobs"] = fails(grpc.StatusCode.RESOURCE_EXHAUSTED)
        digests = push(client, "r10", 100)
        wait_until(lambda: len(fake.calls("BatchUpdateBlobs")) >= 6, "some tries")
        assert only_peer(node)["state"] == "full"
        wait_until(lambda: only_peer(node)["next-try-in-s"] > 0.3, "it is left alone")
        assert len(fake.calls("BatchUpdateBlobs")) < 20
        assert only_peer(node)["parked"] == 0
        fake.does.clear()
        caught_up(node)
        assert set(digests) <= fake.blobs.keys()


def test_r13_an_entry_arrives_after_its_whole_closure(stub: Stub, tmp_path: Path) -> None:
    fake = stub.fake
    dangling: list[str] = []

    async def checks(request: bytes, context: Context) -> bytes:
        result = reapi.UpdateActionResultRequest.FromString(request).action_result
        wanted = [each.digest for each in result.output_files]
        wanted += [each.tree_digest for each in result.output_directories]
        dangling.extend(d.hash for d in wanted if value(d) not in fake.blobs)
        return await fake._UpdateActionResult(request, context)

    fake.does["UpdateActionResult"] = checks
    with sending(tmp_path, stub) as node, Client(node.address) as client:
        for at in range(30):
            files = push(client, f"r13 {at}", 3) + push(client, f"large {at}", 1, size=100_000)
            node_of = reapi.Directory(
                files=[reapi.FileNode(name=str(n), digest=message(d)) for n, d in enumerate(files)]
            )
            tree = reapi.Tree(root=node_of).SerializeToString()
            client.batch_update([tree])
            result = action_result([("out", files[0])])
            result.output_directories.add(path="dir", tree_digest=message(digest_of(tree)))
            client.update_action_result(action_of("r13", at), result)
        lost = files[0]
        caught_up(node)
        assert len(fake.results) == 30

        del fake.blobs[lost]  # then the entry that names it is refused, and the blob sent again

        async def insists(request: bytes, context: Context) -> bytes:
            if lost not in fake.blobs:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "a blob is missing")
            return await checks(request, context)

        fake.does["UpdateActionResult"] = insists
        client.update_action_result(action_of("again", 0), action_result([("out", lost)]))
        caught_up(node)
        assert lost in fake.blobs
        assert action_of("again", 0).hash_hex in fake.results
        assert only_peer(node)["parked"] == 0
    assert dangling == []


def test_r14_an_entry_whose_blob_vanished_never_dangles(stub: Stub, tmp_path: Path) -> None:
    with sending(tmp_path, stub) as node, Client(node.address) as client:
        stub.stop()
        digests = push(client, "r14", 10)
        name_all(client, "r14", digests)
        node.stop()
        with catalogue(node.data_dir, write=True) as connection:
            connection.execute("DELETE FROM blob WHERE substr(key, 2) = ?", (digests[5].hash,))
        stub.start()
        node.start()
        caught_up(node)
        assert stub.fake.results == stub.fake.assets == {}
        assert all(str(digests[5]) in reason for reason in parked(node).values())
        assert len(parked(node)) == 2
        with Client(node.address) as again:
            push(again, "r14", 10)
        assert federation("parked", "retry", "--config", str(node.config_path)).returncode == 0
        wait_until(lambda: stub.fake.results and stub.fake.assets, "they follow")


def test_r22_a_cursor_that_was_lost_or_is_beyond_the_end(stub: Stub, tmp_path: Path) -> None:
    with sending(tmp_path, stub) as node, Client(node.address) as client:
        digests = push(client, "r22", 50)
        caught_up(node)
        for damage in ("DELETE FROM peer", "UPDATE peer SET cursor = 1000000"):
            node.stop()
            with catalogue(node.data_dir, write=True) as connection:
                connection.execute(damage)
            stub.fake.blobs.pop(digests[0])
            before = len(stub.fake.calls("BatchUpdateBlobs"))
            node.start()
            caught_up(node)
            wait_until(lambda: set(digests) <= stub.fake.blobs.keys(), "no gap")  # noqa: B023
            assert len(stub.fake.calls("BatchUpdateBlobs")) == before + 1
            with Client(node.address) as again:
                digests += push(again, damage, 1)
            caught_up(node)
            assert set(digests) <= stub.fake.blobs.keys()


def test_r28_a_peer_that_takes_half_a_second_over_each_object(stub: Stub, tmp_path: Path) -> None:
    fake, count = stub.fake, 100

    async def slow(request: bytes, context: Context) -> bytes:
        batch = reapi.BatchUpdateBlobsRequest.FromString(request).requests
        await asyncio.sleep(0.5 * len(batch))
        return await fake._BatchUpdateBlobs(request, context)

    with sending(tmp_path, stub, peer={"connection-config": {"request-timeout": "60s"}}) as node:
        fake.does["BatchUpdateBlobs"] = slow
        with Client(node.address) as client:
            push(client, "warm", 20)  # how fast it is, is learnt
            caught_up(node, timeout_s=60)
            push(client, "r28", count)
        shown = caught_up(node, timeout_s=count / 20 + 5)
        assert shown["sent-objects"] == count + 20


def test_r26_a_peer_that_denies_all_keeps_the_backlog(stub: Stub, tmp_path: Path) -> None:
    fake = stub.fake
    with sending(tmp_path, stub) as node, Client(node.address) as client:
        fake.does = dict.fromkeys(
            ["FindMissingBlobs", "BatchUpdateBlobs", "UpdateActionResult", "GetCapabilities"],
            fails(grpc.StatusCode.PERMISSION_DENIED),
        )
        digests = push(client, "r26", 50)
        assert outcome(lambda: name_all(client, "r26", digests)) is grpc.StatusCode.OK
        wait_until(lambda: only_peer(node)["state"] == "refused", "it says so")
        assert only_peer(node)["lag-objects"] == 60
        assert only_peer(node)["parked"] == 0
        fake.does.clear()
        caught_up(node)
        assert set(digests) <= fake.blobs.keys()
