"""The one table from this package's errors to statuses, and the text beside them.

The codes are google.rpc.Code, which REAPI's messages carry in batches, too; each protocol that is
served has its own table from these to what it sends.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from google.protobuf.message import DecodeError

from federation.core import errors

_MESSAGE_CHARS = 512  # gRPC refuses trailers above 8 KiB, and it percent-encodes messages


class StatusCode(enum.IntEnum):
    """google.rpc.Code: its numbers on the wire, its names in metrics and logs."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_TABLE: dict[type[errors.FederationError], StatusCode] = {
    errors.InvalidRequest: StatusCode.INVALID_ARGUMENT,
    errors.DigestMismatch: StatusCode.INVALID_ARGUMENT,
    errors.BlobTooLarge: StatusCode.INVALID_ARGUMENT,
    errors.BlobNotFound: StatusCode.NOT_FOUND,
    errors.EntryNotFound: StatusCode.NOT_FOUND,
    errors.OffsetOutside: StatusCode.OUT_OF_RANGE,
    # REAPI, BatchUpdateBlobs: "insufficient disk quota to store the blob".
    errors.StorageFull: StatusCode.RESOURCE_EXHAUSTED,
    errors.TooBusy: StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFailed: StatusCode.UNAVAILABLE,
    errors.SourceUnavailable: StatusCode.UNAVAILABLE,
    errors.BlobDamaged: StatusCode.DATA_LOSS,
    errors.NotAllowed: StatusCode.PERMISSION_DENIED,
    errors.NotAuthenticated: StatusCode.UNAUTHENTICATED,
    # Clients begin an aborted upload again, which is what the older stream has to do.
    errors.UploadSuperseded: StatusCode.ABORTED,
    errors.Stalled: StatusCode.DEADLINE_EXCEEDED,
}

# Logged as warnings: these point to trouble of this node, the others to the client's own.
TROUBLE_HERE = frozenset(
    {
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
        StatusCode.INTERNAL,
    }
)


class CallStatus(NamedTuple):
    """How a call, or one item of a batch, ended."""

    code: StatusCode
    message: str


OK = CallStatus(StatusCode.OK, "")
INTERNAL = CallStatus(StatusCode.INTERNAL, "internal error; the node's log says more")


def status_of(error: Exception) -> CallStatus | None:
    """Return the status for this error; None for an error that is a bug."""
    if isinstance(error, DecodeError):
        return CallStatus(StatusCode.INVALID_ARGUMENT, "the request is not a valid protobuf")
    # The nearest class decides, so a new error needs a line here only if it differs.
    for kind in type(error).__mro__:
        code = _TABLE.get(kind)
        if code is not None:
            return CallStatus(code, clean(str(error)))
    return None


def clean(text: str, max_chars: int = _MESSAGE_CHARS) -> str:
    """Return text that may contain a client's input as printable ASCII, clipped."""
    clipped = text[: max_chars + 1]  # before escaping, so that a huge name costs nothing
    if clipped.isascii() and clipped.isprintable():  # nearly always
        safe = clipped
    else:
        safe = "".join(map(_escaped, clipped))
    return safe if len(safe) <= max_chars else safe[: max_chars - 3] + "..."


def _escaped(char: str) -> str:
    return char if " " <= char <= "~" else char.encode("unicode_escape").decode()
