"""What the headers of a request mean, and those of an answer say."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.services.status_codes import OK, CallStatus, StatusCode
from federation.transport.headers import (
    LIST_BYTES,
    BadRequest,
    NotGrpc,
    beginning,
    parse_request,
    percent_encoded,
    size_of,
    trailers,
)
from tests.transport.wire import HEADERS


def with_(*more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    names = {name for name, _ in more}
    return [each for each in HEADERS if each[0] not in names] + list(more)


def test_a_request_has_its_path_and_the_headers_that_are_not_the_protocols() -> None:
    fields = with_((b"user-agent", b"x"), (b"a", b"1"), (b"a", b"2"), (b"b-bin", b"AAE="))
    request = parse_request(fields)
    assert request.path == b"/a.B/C"
    assert request.headers == (("user-agent", "x"), ("a", "1"), ("a", "2"), ("b-bin", b"\0\1"))
    assert (request.timeout_s, request.encoding) == (None, "identity")


def test_bytes_in_headers_need_no_padding_and_may_be_several() -> None:
    request = parse_request(with_((b"x-bin", b"AAE,AA==")))
    assert request.headers == (("x-bin", b"\0\1"), ("x-bin", b"\0"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"2H", 7200), (b"3M", 180), (b"4S", 4), (b"5m", 0.005), (b"6u", 6e-6), (b"99999999n", 0.1)],
)
def test_a_timeout_is_a_number_and_a_unit(text: bytes, seconds: float) -> None:
    found = parse_request(with_((b"grpc-timeout", text))).timeout_s
    assert found == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"5", b"S", b"-5S", b"123456789S", b"5 S", b"5s", b"1.5S"])
def test_w41_another_timeout_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_request(with_((b"grpc-timeout", text)))
    assert caught.value.status.code is StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ((b":method", b"GET"), 405),
        ((b"content-type", b"text/plain"), 415),
        ((b"content-type", b"application/grpcx"), 415),
    ],
)
def test_what_is_not_grpc_is_answered_as_http_says(
    header: tuple[bytes, bytes], status: int
) -> None:
    with pytest.raises(NotGrpc) as caught:
        parse_request(with_(header))
    assert caught.value.http_status == status


@pytest.mark.parametrize("content", [b"application/grpc+proto", b"application/grpc;x=y"])
def test_any_content_of_grpc_is_taken(content: bytes) -> None:
    assert parse_request(with_((b"content-type", content))).path == b"/a.B/C"


def test_w41_bytes_that_are_not_base64_are_refused() -> None:
    with pytest.raises(BadRequest):
        parse_request(with_((b"x-bin", b"$$$")))


def test_w41_text_that_is_no_text_does_not_matter() -> None:
    assert parse_request(with_((b"x", b"\xff\xfe"))).headers == (("x", "\ufffd\ufffd"),)


def test_an_unknown_encoding_is_unimplemented() -> None:
    with pytest.raises(BadRequest) as caught:
        parse_request(with_((b"grpc-encoding", b"snappy")))
    assert caught.value.status.code is StatusCode.UNIMPLEMENTED
    assert parse_request(with_((b"grpc-encoding", b"gzip"))).encoding == "gzip"


def test_w41_headers_above_the_announced_size_are_refused_for_the_call_alone() -> None:
    room_bytes = LIST_BYTES - size_of(HEADERS) - 33
    assert parse_request(with_((b"x", b"y" * room_bytes))).path
    with pytest.raises(BadRequest) as caught:
        parse_request(with_((b"x", b"y" * (room_bytes + 1))))
    assert caught.value.status.code is StatusCode.RESOURCE_EXHAUSTED


@given(st.text())
def test_messages_of_statuses_are_printable_ascii_and_come_back(text: str) -> None:
    encoded = percent_encoded(text)
    assert all(0x20 <= byte < 0x7F for byte in encoded)
    assert unquote_to_bytes(encoded) == text.encode("utf-8", "replace")


def test_what_needs_no_escape_has_none() -> None:
    assert percent_encoded("blob a/b is not here; 50 %") == b"blob a/b is not here; 50 %25"


def test_an_answer_ends_with_its_status_and_a_message_if_there_is_one() -> None:
    assert trailers(OK) == ((b"grpc-status", b"0"),)
    lost = CallStatus(StatusCode.DATA_LOSS, "é")
    assert trailers(lost) == ((b"grpc-status", b"15"), (b"grpc-message", b"%C3%A9"))


def test_an_answer_begins_with_what_grpc_wants_and_its_own_headers() -> None:
    found = beginning([("federation-node", "n")])
    assert found[:2] == ((b":status", b"200"), (b"content-type", b"application/grpc"))
    assert found[-1] == (b"federation-node", b"n")
