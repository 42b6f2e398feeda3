"""Calls that say who they want and then nothing: what they may take from everybody else."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.attacks.harness import MIB, Attacked
from tests.attacks.raw import RawConnection, framed
from tests.support.polling import wait_until

CAS = "build.bazel.remote.execution.v2.ContentAddressableStorage"
CAPABILITIES = "build.bazel.remote.execution.v2.Capabilities/GetCapabilities"
WATCH = "grpc.health.v1.Health/Watch"
REFLECT = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
BATCH_UPDATE = f"{CAS}/BatchUpdateBlobs"
WRITE = "google.bytestream.ByteStream/Write"
READ = "google.bytestream.ByteStream/Read"

STREAMS = 60
LIMITS = {"streams": STREAMS, "streams-per-connection": 500}


def open_streams(raw: RawConnection, method: str, count: int, **headers: str) -> list[int]:
    """Begin so many calls without a message."""
    sent = list(headers.items())
    streams = [raw.call(method, sent) for _ in range(count)]
    raw.flush()
    return streams


@pytest.mark.parametrize("method", [CAPABILITIES, BATCH_UPDATE, WRITE, READ, "no.such/Method"])
def test_calls_without_credentials_end_at_their_headers(tmp_path: Path, method: str) -> None:
    with Attacked(tmp_path, limits=LIMITS) as node, node.watched() as seen, ExitStack() as open_:
        raws = [open_.enter_context(node.connection()) for _ in range(2)]
        for raw in raws:
            open_streams(raw, method, STREAMS)
        seen.judge()
        for raw in raws:
            raw.wait_for(STREAMS)
            wanted = {"12"} if method == "no.such/Method" else {"16"}
            assert set(raw.statuses.values()) == wanted


@pytest.mark.parametrize("method", [CAPABILITIES, WRITE, READ])
def test_one_caller_without_messages_leaves_calls_for_others(tmp_path: Path, method: str) -> None:
    with (
        Attacked(tmp_path, limits=LIMITS) as node,
        node.watched() as seen,
        node.connection() as raw,
    ):
        open_streams(raw, method, 3 * STREAMS, authorization=f"Bearer {node.attacker_token}")
        seen.judge()
        node.check_limit_hit("streams-per-caller")
        code, text = node.node.http_get("/readyz")
        assert code == 200
        assert "streams-per-caller" in text


@pytest.mark.parametrize("method", [WATCH, REFLECT])
def test_what_is_open_to_all_takes_no_calls_of_those_with_rights(
    tmp_path: Path, method: str
) -> None:
    with (
        Attacked(tmp_path, limits=LIMITS) as node,
        node.watched() as seen,
        node.connection() as raw,
    ):
        if method == WATCH:
            for _ in range(2 * STREAMS):
                raw.unary(WATCH, b"")
            raw.flush()
        else:
            open_streams(raw, method, 2 * STREAMS)
        seen.judge()
        node.check_limit_hit("streams-per-caller")


def test_a_call_whose_message_does_not_come_is_ended(tmp_path: Path) -> None:
    limits = {**LIMITS, "first-message": "1s"}
    with (
        Attacked(tmp_path, limits=limits) as node,
        node.watched() as seen,
        node.connection() as raw,
    ):
        shown = node.bearer(node.reader_token)
        waiting = [raw.call(CAPABILITIES, shown) for _ in range(10)]
        half = raw.call(BATCH_UPDATE, node.bearer(node.attacker_token))
        raw.flush()
        raw.send(half, framed(bytes(1000))[:-1])
        raw.wait_for(11)
        assert [raw.statuses[each] for each in [*waiting, half]] == ["4"] * 11
        seen.judge()
        node.check_limit_hit("first-message")


def test_messages_without_credentials_take_no_memory(tmp_path: Path) -> None:
    message = framed(bytes(8 * MIB - 100))[:-1]
    with Attacked(tmp_path, limits=LIMITS) as node, node.watched() as seen, ExitStack() as open_:
        for _ in range(4):
            raw = open_.enter_context(node.connection())
            for _ in range(15):
                raw.send(raw.call(BATCH_UPDATE), message, patience_s=0.2)
        seen.judge()


def test_after_many_refused_calls_nothing_of_them_is_left(tmp_path: Path) -> None:
    with Attacked(tmp_path, limits=LIMITS) as node:
        with node.connection() as raw:
            open_streams(raw, READ, 400)
            raw.wait_for(400)
        wait_until(
            lambda: node.node.metrics().value("federation_requests_running") == 0, "no calls"
        )
