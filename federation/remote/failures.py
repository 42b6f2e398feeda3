"""How a call to a remote can fail, and the one table from gRPC statuses to that.

NOT_FOUND is no failure: it is an answer, and callers of raw calls get it as NotFound. Everything
else leaves absence unknown, so all of it is SourceUnavailable. The kinds are a closed set: they
are labels of metrics, and what retries and breakers decide by.
"""

from __future__ import annotations

import enum
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from federation.core.errors import FederationError, SourceUnavailable

_DETAIL_CHARS = 300
_RETRY_MAX_S = 3600.0  # no server may silence itself for longer than that


class FailureKind(enum.StrEnum):
    """Why a call failed."""

    UNAVAILABLE = "unavailable"  # not reached, or it says so itself
    TIMEOUT = "timeout"  # no answer in the time given
    STALLED = "stalled"  # a stream without progress
    EXHAUSTED = "exhausted"  # it has reached a bound of its own
    CROWDED = "crowded"  # it takes no more calls at once; this one it has not looked at
    INTERNAL = "internal"  # it failed, in whatever way
    CANCELLED = "cancelled"  # it ended the call by itself
    DENIED = "denied"  # it knows us and does not let us
    CERTIFICATE = "certificate"  # it is not who it should be, or does not accept who we are
    EXISTS = "exists"  # what was sent is there already, which some servers call an error
    REFUSED = "refused"  # it will never take this request
    UNSUPPORTED = "unsupported"  # it has no such service or method
    SHORT = "short"  # fewer bytes than the digest says, and a clean end
    OVERRUN = "overrun"  # more bytes than the digest says
    WRONG_BYTES = "wrong_bytes"  # other bytes than the digest names
    MALFORMED = "malformed"  # an answer that is no message, or zstd data that is none
    BUSY = "busy"  # a bound of ours: too many calls to this remote wait already
    HOPS = "hops"  # the request has passed as many nodes as one may
    CLOSED = "closed"  # we have closed the connection


_RETRYABLE = frozenset(
    {
        FailureKind.UNAVAILABLE,
        FailureKind.TIMEOUT,
        FailureKind.STALLED,
        FailureKind.EXHAUSTED,
        FailureKind.CROWDED,
        FailureKind.INTERNAL,
        FailureKind.CANCELLED,
        FailureKind.SHORT,
        FailureKind.BUSY,
    }
)


class NotFound(FederationError):
    """The remote answered that it does not hold what was asked for."""


class RemoteFailed(SourceUnavailable):
    """A call to a remote failed; kind says how."""

    def __init__(
        self, remote: str, kind: FailureKind, detail: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(remote, f"{kind}: {detail}" if detail else str(kind))
        self.kind = kind
        self.retry_after_s = retry_after_s  # how long the remote asked to be left alone
        # How many others the remote answered while this call waited for its first byte.
        self.others_answered = 0

    @property
    def needs_operator(self) -> bool:
        """Whether only an operator can remedy it."""
        return self.kind in {FailureKind.DENIED, FailureKind.CERTIFICATE}

    @property
    def is_local_limit(self) -> bool:
        """Whether a limit of this node was reached, which says nothing about the remote."""
        return self.kind in {FailureKind.BUSY, FailureKind.HOPS, FailureKind.CLOSED}

    @property
    def asks_for_patience(self) -> bool:
        """Whether the remote works and asked to be called later."""
        return self.kind in {FailureKind.EXHAUSTED, FailureKind.CROWDED}

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may succeed soon."""
        return self.kind in _RETRYABLE


class Denied(RemoteFailed):
    """The remote denies this node, or failed authentication; only an operator can remedy it."""


class RequestRefused(RemoteFailed):
    """The remote will never take this request; it may take others."""


class Unsupported(RemoteFailed):
    """The remote has no such service or method."""


class WrongBytes(RemoteFailed):
    """The remote sent bytes that do not match the digest."""


_TYPES: dict[FailureKind, type[RemoteFailed]] = {
    FailureKind.DENIED: Denied,
    FailureKind.CERTIFICATE: Denied,
    FailureKind.REFUSED: RequestRefused,
    FailureKind.UNSUPPORTED: Unsupported,
    FailureKind.WRONG_BYTES: WrongBytes,
}

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
# So it does for HTTP/2's REFUSED_STREAM: the server has not looked at the call.
_REFUSED_STREAM = "RST_STREAM with error code 7"
_CLOSED_IN_OUR_FACE = ("failed to connect", "Socket closed")
_CLOSED_HINT = "(so does a server that wants another client-cert, or TLS, end a connection)"


def failure(
    remote: str, kind: FailureKind, detail: str, retry_after_s: float | None = None
) -> RemoteFailed:
    """Return the error of this kind, in the type that callers tell apart."""
    return _TYPES.get(kind, RemoteFailed)(remote, kind, detail, retry_after_s)


def from_rpc(remote: str, error: grpc.aio.AioRpcError) -> RemoteFailed | NotFound:
    """Translate a failed call."""
    detail = _clean(error.details() or "")
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return NotFound(f"{remote}: {detail}")
    kind = _KINDS.get(error.code(), FailureKind.INTERNAL)
    if kind is FailureKind.UNAVAILABLE and any(sign in detail for sign in _CERTIFICATE_SIGNS):
        kind = FailureKind.CERTIFICATE
    if kind is FailureKind.UNAVAILABLE and _REFUSED_STREAM in detail:
        kind = FailureKind.CROWDED
    if all(words in detail for words in _CLOSED_IN_OUR_FACE):
        detail = f"{detail} {_CLOSED_HINT}"
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
