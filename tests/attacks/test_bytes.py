"""Bytes that are sent all at once, or asked for and not taken."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import grpc

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.core.digest import digest_of
from tests.attacks.harness import MIB, Attacked
from tests.attacks.raw import framed
from tests.support.polling import wait_until
from tests.support.process_client import message
from tests.support.transports import TRANSPORT

CAS = "build.bazel.remote.execution.v2.ContentAddressableStorage"
LIMITS = {"buffer-memory": "64M", "stall": "3s"}
MEMORY_MIB = 128
CALLS = 200
AT_ONCE = 80


def test_answers_that_nobody_takes_are_bounded_and_end(tmp_path: Path) -> None:
    blob = bytes(range(256)) * (15 * MIB // 4 // 256)
    asked = reapi.BatchReadBlobsRequest(digests=[message(digest_of(blob))]).SerializeToString()
    with Attacked(tmp_path, limits=LIMITS) as node, ExitStack() as stack:
        with node.client() as client:
            client.batch_update([blob])
            client.batch_read([digest_of(blob)])
        seen = stack.enter_context(node.watched(MEMORY_MIB))
        raws = [stack.enter_context(node.connection(window_bytes=0)) for _ in range(2)]
        for raw in raws:
            for _ in range(CALLS // 2):
                raw.unary(f"{CAS}/BatchReadBlobs", asked, node.bearer(node.reader_token))
            raw.flush()
        node.check_limit_hit("buffer-memory")
        seen.judge()
        for raw in raws:  # a call ends with a status, or with its connection
            raw.wait_for(CALLS // 2, timeout_s=60)
        node.check_limit_hit("stall")
        wait_until(
            lambda: node.node.metrics().value("federation_requests_running") == 0, "no calls"
        )


def test_batches_all_at_once_take_turns_and_none_is_lost(tmp_path: Path) -> None:
    tail = bytes(15 * MIB // 4)
    with (
        Attacked(tmp_path, limits=LIMITS | {"stall": "60s"}) as node,  # a busy machine pauses
        node.watched(MEMORY_MIB) as seen,
        node.client(node.attacker_token) as client,
    ):
        pushed = []
        for at in range(AT_ONCE):
            blob = b"%d" % at + tail
            request = reapi.BatchUpdateBlobsRequest()
            request.requests.add(digest=message(digest_of(blob)), data=blob)
            pushed.append((request, client.cas.BatchUpdateBlobs.future(request, timeout=100)))
        seen.judge()
        for request, running in pushed:
            error: object = running.exception()
            if TRANSPORT == "grpcio" and error is not None:
                # gRPC hides how much of a message has come. If messages come slowly, as on a busy
                # machine, more of them are let in than there is room for once they are whole, and
                # their connection is closed. Clients send them again.
                assert isinstance(error, grpc.Call)
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                answer = client.cas.BatchUpdateBlobs(request, timeout=100)
            else:
                answer = running.result()
            assert answer.responses[0].status.code == 0


def test_messages_that_are_never_whole_are_found_out(tmp_path: Path) -> None:
    part = framed(bytes(8 * MIB - 100))[:-1]
    with (
        Attacked(tmp_path, limits={**LIMITS, "stall": "60s"}) as node,
        node.watched(MEMORY_MIB) as seen,
        ExitStack() as stack,
    ):
        for _ in range(6):
            raw = stack.enter_context(node.connection())
            for _ in range(10):
                raw.send(
                    raw.call(f"{CAS}/BatchUpdateBlobs", node.bearer(node.attacker_token)),
                    part,
                    patience_s=0.1,
                )
        node.check_limit_hit("buffer-memory")
        seen.judge()


def test_uploads_that_pause_do_not_keep_their_callers_others_waiting(tmp_path: Path) -> None:
    def first(at: int) -> bytes:
        name = f"uploads/{at}/blobs/{at:064x}/100000"
        return bs.WriteRequest(resource_name=name, data=b"x").SerializeToString()

    write = "google.bytestream.ByteStream/Write"
    with (
        Attacked(tmp_path, limits=LIMITS | {"stall": "60s"}) as node,
        node.connection() as raw,
        node.client(node.attacker_token) as same,
    ):
        shown = node.bearer(node.attacker_token)
        for at in range(40):
            stream = raw.call(write, shown)
            raw.send(stream, framed(first(at)))
        waiting = [raw.call(write, shown) for _ in range(20)]
        raw.flush()
        assert waiting
        for number in range(10):
            same.write(b"%d" % number)
            same.capabilities()
        assert raw.statuses == {}
