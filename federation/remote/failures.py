"""How a call to a remote can fail, whatever carries it.

NOT_FOUND is no failure: it is an answer, and callers of raw calls get it as NotFound. Everything
else leaves absence unknown, so all of it is SourceUnavailable. The kinds are a closed set: they
are labels of metrics, and what retries and breakers decide by.
"""

from __future__ import annotations

import enum

from federation.core.errors import FederationError, SourceUnavailable


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


def failure(
    remote: str, kind: FailureKind, detail: str, retry_after_s: float | None = None
) -> RemoteFailed:
    """Return the error of this kind, in the type that callers tell apart."""
    return _TYPES.get(kind, RemoteFailed)(remote, kind, detail, retry_after_s)
