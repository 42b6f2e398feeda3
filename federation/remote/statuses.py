"""The one table from gRPC statuses to how a call failed."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from federation.remote.failures import FailureKind, NotFound, RemoteFailed, failure

_DETAIL_CHARS = 300
_RETRY_MAX_S = 3600.0  # no server may silence itself for longer than that

_KINDS = {
    grpc.StatusCode.UNAVAILABLE: FailureKind.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: FailureKind.TIMEOUT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: FailureKind.EXHAUSTED,
    grpc.StatusCode.INTERNAL: FailureKind.INTERNAL,
    grpc.StatusCode.UNKNOWN: FailureKind.INTERNAL,
    grpc.StatusCode.ABORTED: FailureKind.INTERNAL,
    grpc.StatusCode.DATA_LOSS: FailureKind.INTERNAL,
    grpc.StatusCode.CANCELLED: FailureKind.CANCELLED,
    grpc.StatusCode.UNAUTHENTICATED: FailureKind.DENIED,
    grpc.StatusCode.PERMISSION_DENIED: FailureKind.DENIED,
    grpc.StatusCode.INVALID_ARGUMENT: FailureKind.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: FailureKind.REFUSED,
    grpc.StatusCode.OUT_OF_RANGE: FailureKind.REFUSED,
    grpc.StatusCode.ALREADY_EXISTS: FailureKind.EXISTS,
    grpc.StatusCode.UNIMPLEMENTED: FailureKind.UNSUPPORTED,
}
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}

# gRPC reports a failed handshake as UNAVAILABLE, with no sign but words in the text; the tests make
# each of these failures happen against a real server.
_CERTIFICATE_SIGNS = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed")
_UNTRUSTED = "(server-cert has to be its certificate, or that of the authority that signed it)"
_HINTS = {
    "unable to get local issuer certificate": _UNTRUSTED,
    "self signed certificate": _UNTRUSTED,
    "Hostname Verification Check failed": "(its certificate has to name the host of the url)",
}
# gRPC reports HTTP/2's REFUSED_STREAM as UNAVAILABLE, too: the server has not seen the call.
_REFUSED_STREAM = "RST_STREAM with error code 7"
_CLOSED_AT_ONCE = ("failed to connect", "Socket closed")
_CLOSED_HINT = "(a server that wants another client-cert, or TLS, ends a connection like this)"


def from_rpc(remote: str, error: grpc.aio.AioRpcError) -> RemoteFailed | NotFound:
    """Translate a failed call."""
    detail = _clean(error.details() or "")
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return NotFound(f"{remote}: {detail}")
    # A code that is unknown here leaves absence unknown, like any other failure.
    kind = _KINDS.get(error.code(), FailureKind.INTERNAL)
    if kind is FailureKind.UNAVAILABLE and any(sign in detail for sign in _CERTIFICATE_SIGNS):
        kind = FailureKind.CERTIFICATE
    if kind is FailureKind.UNAVAILABLE and _REFUSED_STREAM in detail:
        kind = FailureKind.CROWDED
    if all(words in detail for words in _CLOSED_AT_ONCE):
        detail = f"{detail} {_CLOSED_HINT}"
    for sign, hint in _HINTS.items():
        if sign in detail:
            detail = f"{detail} {hint}"
    shown = f"{error.code().name} {detail}".rstrip()
    return failure(remote, kind, shown, _retry_after_s(error))


def from_status(remote: str, code: int, message: str) -> RemoteFailed | NotFound | None:
    """Translate a google.rpc.Status inside a response; None: OK."""
    if code == 0:
        return None
    known = _BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)
    if known is grpc.StatusCode.NOT_FOUND:
        return NotFound(f"{remote}: {_clean(message)}")
    kind = _KINDS.get(known, FailureKind.INTERNAL)
    return failure(remote, kind, f"{known.name} {_clean(message)}".rstrip())


def _retry_after_s(error: grpc.aio.AioRpcError) -> float | None:
    """Return the delay of google.rpc.RetryInfo in the trailers (gRPC's rich error model)."""
    trailers: Any = error.trailing_metadata()  # the stubs do not know that it is a mapping
    for key, value in trailers or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return _delay_in(value)
    return None


def _delay_in(details: bytes) -> float | None:
    info = RetryInfo()
    try:
        for each in Status.FromString(details).details:
            if each.Is(RetryInfo.DESCRIPTOR) and each.Unpack(info):
                delay_s: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
                return min(max(delay_s, 0.0), _RETRY_MAX_S)
    except DecodeError:
        return None  # a hint that cannot be read is no hint
    return None


def _clean(text: str) -> str:
    """Return text of a remote as one short printable line."""
    clipped = text[:_DETAIL_CHARS]
    return "".join(c if c.isprintable() else " " for c in clipped).strip()
