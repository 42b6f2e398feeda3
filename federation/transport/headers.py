"""The headers of gRPC over HTTP/2: what a request says, and what an answer begins and ends with.

Pure; PROTOCOL-HTTP2.md of gRPC is the specification.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from federation.access.incoming_call import Headers
from federation.services.status_codes import CallStatus, StatusCode
from federation.transport.framing import ENCODINGS

Fields = Sequence[tuple[bytes, bytes]]

LIST_BYTES: Final = 2**14  # of a request's headers, as HTTP/2 counts them; announced to clients
_FIELD_BYTES = 32  # what HTTP/2 counts for each field beside its text

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_GRPC = b"application/grpc"
_OF_HTTP = frozenset((b"te", b"content-type", b"grpc-timeout", b"grpc-encoding"))
_UNESCAPED = frozenset(range(0x20, 0x7F)) - {ord("%")}

ACCEPTED: Final = (b"grpc-accept-encoding", ",".join(ENCODINGS).encode())
BEGINNING: Final[Fields] = ((b":status", b"200"), (b"content-type", _GRPC), ACCEPTED)


class Request(NamedTuple):
    """What the headers of a call say."""

    path: bytes
    headers: Headers
    timeout_s: float | None
    encoding: str


class NotGrpc(Exception):
    """A request that is not gRPC's; http_status: what to answer."""

    def __init__(self, http_status: int, text: str) -> None:
        super().__init__(text)
        self.http_status = http_status


class BadRequest(Exception):
    """A call that cannot be served; status: what to answer."""

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.status = CallStatus(code, text)


def size_of(fields: Fields) -> int:
    """Return how large a list of headers is, as RFC 9113 counts (SETTINGS_MAX_HEADER_LIST_SIZE)."""
    return sum(len(name) + len(value) + _FIELD_BYTES for name, value in fields)


def parse_request(fields: Fields) -> Request:
    """Read the headers of a request. Raises NotGrpc, BadRequest."""
    if (size_bytes := size_of(fields)) > LIST_BYTES:
        raise BadRequest(
            StatusCode.RESOURCE_EXHAUSTED,
            f"the headers of the call have {size_bytes} bytes; at most {LIST_BYTES}",
        )
    special: dict[bytes, bytes] = {}
    headers: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name[:1] == b":" or name in _OF_HTTP:
            special[name] = value
        elif name.endswith(b"-bin"):
            headers += [(_text(name), _from_base64(each)) for each in value.split(b",")]
        else:
            headers.append((_text(name), _text(value)))
    if special.get(b":method") != b"POST":
        raise NotGrpc(405, "gRPC's calls are POST requests")
    content = special.get(b"content-type", b"")
    if not content.startswith(_GRPC) or content[len(_GRPC) : len(_GRPC) + 1] not in b"+;":
        raise NotGrpc(415, "the content type is not application/grpc")
    encoding = special.get(b"grpc-encoding", b"identity").decode("ascii", "replace")
    if encoding not in ENCODINGS:
        raise BadRequest(
            StatusCode.UNIMPLEMENTED,
            f"grpc-encoding {encoding[:30]!r} is not one of {', '.join(ENCODINGS)}",
        )
    timeout = special.get(b"grpc-timeout")
    timeout_s = None if timeout is None else _parse_timeout(timeout)
    return Request(special.get(b":path", b""), tuple(headers), timeout_s, encoding)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _from_base64(value: bytes) -> bytes:
    padded = value.strip() + b"=" * (-len(value.strip()) % 4)
    try:
        return base64.b64decode(padded, validate=True)
    except binascii.Error:
        raise BadRequest(StatusCode.INTERNAL, "a header of bytes (-bin) is not base64") from None


def _parse_timeout(value: bytes) -> float:
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise BadRequest(StatusCode.INTERNAL, "grpc-timeout is not a number and a unit")
    return int(found[1]) * _UNIT_S[found[2]]


def trailers(status: CallStatus) -> Fields:
    """Return what ends an answer."""
    if not status.message:
        return ((b"grpc-status", b"%d" % status.code),)
    return (
        (b"grpc-status", b"%d" % status.code),
        (b"grpc-message", percent_encoded(status.message)),
    )


def beginning(headers: Iterable[tuple[str, str]]) -> Fields:
    """Return what an answer begins with: these headers behind those of every answer."""
    return (*BEGINNING, *((name.encode(), value.encode()) for name, value in headers))


def percent_encoded(text: str) -> bytes:
    """Return the text as a grpc-message: visible ASCII but for %, other bytes of UTF-8 as %XX."""
    data = text.encode("utf-8", "replace")
    if _UNESCAPED.issuperset(data):
        return data
    return b"".join(
        data[at : at + 1] if byte in _UNESCAPED else b"%%%02X" % byte
        for at, byte in enumerate(data)
    )
