from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import DigestFunction, digest_of
from federation.core.errors import InvalidRequest
from federation.core.index import EntryKind
from federation.wire.action_result import (
    RESPONSE_MAX_BYTES,
    STDERR,
    STDOUT,
    check_inlined,
    key_of,
    read_update,
    to_inline,
    with_inlined,
)
from federation.wire.protobuf import length_field

SHA256 = DigestFunction.SHA256
ACTION = digest_of(b"action")


def message_of(data: bytes) -> reapi.Digest:
    return reapi.Digest(hash=digest_of(data).hash_hex, size_bytes=len(data))


def result() -> reapi.ActionResult:
    return reapi.ActionResult(
        output_files=[
            reapi.OutputFile(path="a", digest=message_of(b"A"), is_executable=True),
            reapi.OutputFile(path="b", digest=message_of(b"BB")),
            reapi.OutputFile(path="empty", digest=message_of(b"")),
            reapi.OutputFile(path="here", digest=message_of(b"H"), contents=b"H"),
        ],
        stdout_digest=message_of(b"out"),
        stderr_digest=message_of(b"err"),
        exit_code=3,
    )


def asking(**fields: Any) -> reapi.GetActionResultRequest:
    return reapi.GetActionResultRequest(**fields)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("where", ["contents", "stdout_raw", "stderr_raw"])
@pytest.mark.parametrize("wrong", [b"X", b"longer", b"A\0"], ids=["other", "long", "tail"])
def test_what_is_inlined_is_what_the_digest_beside_it_names(
    where: str, right: bool, wrong: bytes
) -> None:
    held = result()
    data = b"A" if right else wrong
    if where == "contents":
        held.output_files[0].contents = data
    else:
        getattr(held, where.replace("raw", "digest")).CopyFrom(message_of(b"A"))
        setattr(held, where, data)
    if right:
        check_inlined(held.SerializeToString(), SHA256)
    else:
        with pytest.raises(InvalidRequest, match=where):
            check_inlined(held.SerializeToString(), SHA256)


def test_what_is_inlined_without_a_digest_beside_it_is_fine() -> None:
    check_inlined(reapi.ActionResult(stdout_raw=b"x", stderr_raw=b"y").SerializeToString(), SHA256)


def test_what_is_inlined_is_hashed_as_the_action_is() -> None:
    digest = digest_of(b"A", DigestFunction.BLAKE3)
    named = reapi.Digest(hash=digest.hash_hex, size_bytes=1)
    held = reapi.ActionResult(stdout_raw=b"A", stdout_digest=named).SerializeToString()
    check_inlined(held, DigestFunction.BLAKE3)
    with pytest.raises(InvalidRequest):
        check_inlined(held, SHA256)


def test_a_key_is_function_hash_and_size() -> None:
    key = key_of("main", ACTION)
    assert (key.kind, key.instance) == (EntryKind.ACTION_RESULT, "main")
    assert key.name == b"\x01" + ACTION.hash + len(b"action").to_bytes(8, "big")
    blake3 = key_of("main", digest_of(b"action", DigestFunction.BLAKE3))
    assert (blake3.name[0], len(blake3.name)) == (9, 41)


def test_an_update_gives_the_result_exactly_as_sent() -> None:
    raw = length_field(99, b"unknown") + result().SerializeToString() + b"\x20\x00"
    request = reapi.UpdateActionResultRequest(
        instance_name="main", action_digest=message_of(b"action")
    ).SerializeToString()
    update = read_update(length_field(3, raw) + request)
    assert update.value == raw
    assert update.key == key_of("main", ACTION)


def test_an_update_in_two_parts_is_joined_as_protobuf_merges() -> None:
    head = reapi.UpdateActionResultRequest(action_digest=message_of(b"a")).SerializeToString()
    update = read_update(head + length_field(3, b"\x20\x01") + length_field(3, b"\x20\x02"))
    assert reapi.ActionResult.FromString(update.value).exit_code == 2


@pytest.mark.parametrize(
    "request_",
    [
        reapi.UpdateActionResultRequest(),
        reapi.UpdateActionResultRequest(action_result=reapi.ActionResult()),
        reapi.UpdateActionResultRequest(action_digest=message_of(b"a")),
        reapi.UpdateActionResultRequest(
            action_digest=message_of(b"a"),
            action_result=reapi.ActionResult(),
            digest_function=reapi.DigestFunction.SHA1,
        ),
        reapi.UpdateActionResultRequest(
            action_digest=message_of(b"a"),
            action_result=reapi.ActionResult(stdout_raw=bytes(RESPONSE_MAX_BYTES)),
        ),
    ],
)
def test_w45_an_update_without_its_parts_or_above_the_response_limit_is_refused(
    request_: reapi.UpdateActionResultRequest,
) -> None:
    with pytest.raises(InvalidRequest):
        read_update(request_.SerializeToString())


def test_an_empty_result_that_is_set_is_taken() -> None:
    request = reapi.UpdateActionResultRequest(action_digest=message_of(b"a"))
    request.action_result.SetInParent()
    assert read_update(request.SerializeToString()).value == b""


def test_bytes_that_are_no_update_are_refused() -> None:
    with pytest.raises((InvalidRequest, DecodeError)):
        read_update(b"\x1a\x05ab")


def test_only_what_is_asked_for_is_chosen() -> None:
    value = result().SerializeToString()
    assert to_inline(value, asking(), SHA256) == {}
    assert to_inline(value, asking(inline_stdout=True), SHA256) == {STDOUT: digest_of(b"out")}
    assert to_inline(value, asking(inline_output_files=["b", "nowhere"]), SHA256) == {
        1: digest_of(b"BB")
    }


def test_what_is_empty_or_inlined_already_is_not_chosen() -> None:
    value = result().SerializeToString()
    assert to_inline(value, asking(inline_output_files=["empty", "here"]), SHA256) == {}
    raw = reapi.ActionResult(stdout_raw=b"x", stdout_digest=message_of(b"x")).SerializeToString()
    assert to_inline(raw, asking(inline_stdout=True), SHA256) == {}


def test_w36_what_would_not_fit_is_not_chosen() -> None:
    large = reapi.Digest(hash=ACTION.hash_hex, size_bytes=100 * 2**20)
    message = reapi.ActionResult(stdout_digest=large, stderr_digest=message_of(b"err"))
    message.output_files.add(path="large", digest=large)
    request = asking(inline_stdout=True, inline_stderr=True, inline_output_files=["large"])
    assert list(to_inline(message.SerializeToString(), request, SHA256)) == [STDERR]


def test_w36_together_they_stay_under_the_limit() -> None:
    half = reapi.Digest(hash=ACTION.hash_hex, size_bytes=RESPONSE_MAX_BYTES // 2 - 500)
    message = reapi.ActionResult()
    for path in "abc":
        message.output_files.add(path=path, digest=half)
    value = message.SerializeToString()
    chosen = to_inline(value, asking(inline_output_files=["a", "b", "c"]), SHA256)
    assert list(chosen) == [0, 1]
    grown = with_inlined(value, {at: bytes(half.size_bytes) for at in chosen})
    assert len(grown) <= RESPONSE_MAX_BYTES


def test_inlining_changes_nothing_else() -> None:
    value = length_field(99, b"unknown") + result().SerializeToString() + length_field(99, b"end")
    contents = {0: b"A", 1: b"BB", STDOUT: b"out", STDERR: b"err"}
    wanted = reapi.ActionResult.FromString(value)
    wanted.output_files[0].contents = b"A"
    wanted.output_files[1].contents = b"BB"
    wanted.stdout_raw, wanted.stderr_raw = b"out", b"err"
    assert reapi.ActionResult.FromString(with_inlined(value, contents)) == wanted


def test_inlining_streams_leaves_the_stored_bytes_in_front() -> None:
    value = result().SerializeToString()
    assert with_inlined(value, {STDOUT: b"out"}) == value + length_field(5, b"out")
