"""The one table from this package's errors to gRPC status codes, and the text beside them."""

from __future__ import annotations

from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError

from federation.core import errors

_MESSAGE_CHARS = 512  # grpc refuses trailers above 8 KiB, and it percent-encodes messages

_TABLE: dict[type[errors.FederationError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.DigestMismatch: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BlobTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BlobNotFound: grpc.StatusCode.NOT_FOUND,
    errors.EntryNotFound: grpc.StatusCode.NOT_FOUND,
    errors.OffsetOutside: grpc.StatusCode.OUT_OF_RANGE,
    errors.StorageFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFailed: grpc.StatusCode.UNAVAILABLE,
    errors.SourceUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.BlobDamaged: grpc.StatusCode.DATA_LOSS,
    errors.NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.UploadSuperseded: grpc.StatusCode.ABORTED,
    errors.Stalled: grpc.StatusCode.DEADLINE_EXCEEDED,
}

# What an operator should hear about without asking; the rest is the client's own business.
TROUBLE_HERE = frozenset(
    {
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.INTERNAL,
    }
)


class CallStatus(NamedTuple):
    """How a call, or one item of a batch, ended."""

    code: grpc.StatusCode
    message: str

    @property
    def number(self) -> int:
        """The code's number on the wire (google.rpc.Code)."""
        number: int = self.code.value[0]
        return number


OK = CallStatus(grpc.StatusCode.OK, "")
INTERNAL = CallStatus(grpc.StatusCode.INTERNAL, "internal error; the node's log says more")


def outcome_of(error: Exception) -> CallStatus | None:
    """Return what a client is told about this error; None for one that nobody foresaw."""
    if isinstance(error, DecodeError):
        return CallStatus(grpc.StatusCode.INVALID_ARGUMENT, "the request is not a valid protobuf")
    for kind in type(error).__mro__:
        code = _TABLE.get(kind)
        if code is not None:
            return CallStatus(code, clean(str(error)))
    return None


def clean(text: str, max_chars: int = _MESSAGE_CHARS) -> str:
    """Make text that a client had a hand in safe to show: printable ASCII, clipped."""
    clipped = text[: max_chars + 1]  # before escaping, so that a huge name costs nothing
    safe = "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode() for c in clipped)
    return safe if len(safe) <= max_chars else safe[: max_chars - 3] + "..."
