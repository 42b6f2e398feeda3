"""google.protobuf Timestamp and Duration as seconds, refused when out of their ranges."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from federation.core.errors import InvalidRequest

_FIRST_S = -62_135_596_800  # 0001-01-01, the range that Timestamp documents
_LAST_S = 253_402_300_799  # 9999-12-31
_NANOS = 1_000_000_000


def wall_s_of(message: Timestamp, what: str) -> float:
    """Return seconds since 1970; what names the field. Raises InvalidRequest."""
    if not _FIRST_S <= message.seconds <= _LAST_S or not 0 <= message.nanos < _NANOS:
        raise InvalidRequest(f"{what} is not a valid Timestamp")
    return message.seconds + message.nanos / _NANOS


def timestamp_of(wall_s: float) -> Timestamp:
    """Return seconds since 1970 as a message."""
    # The whole value in nanoseconds, so that rounding carries into the seconds.
    nanos = round(wall_s * _NANOS)
    return Timestamp(seconds=nanos // _NANOS, nanos=nanos % _NANOS)


def check_not_negative(message: Duration, what: str) -> None:
    """Raise InvalidRequest for a duration below zero; what names the field."""
    if message.seconds < 0 or message.nanos < 0:
        raise InvalidRequest(f"{what} is negative")
