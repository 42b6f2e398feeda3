"""The conditions and ranges of a GET (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from typing import NamedTuple

_RANGE = re.compile(r"bytes=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.ASCII)


class ByteRange(NamedTuple):
    """The part of a value that is asked for."""

    offset: int
    size_bytes: int

    def content_range(self, whole_bytes: int) -> str:
        """Return the field Content-Range of the answer."""
        return f"bytes {self.offset}-{self.offset + self.size_bytes - 1}/{whole_bytes}"


class RangeOutside(Exception):
    """No byte of the value is in the range."""


def range_of(field: str | None, if_range: str | None, etag: str, size: int) -> ByteRange | None:
    """Return the range that Range asks for; None: the whole value.

    Several ranges, and units that are not bytes, are ignored, as the RFC allows. Raises
    RangeOutside.
    """
    # If-Range compares strongly (RFC 9110, section 13.1.5): another value is sent whole.
    if field is None or (if_range is not None and if_range.strip() != etag):
        return None
    match = _RANGE.fullmatch(field.strip())
    # A range that cannot be read is ignored, not refused (RFC 9110, section 14.2).
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:  # the last so many bytes
        count = min(int(match[2]), size)
        if not count:
            raise RangeOutside
        return ByteRange(size - count, count)
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None  # not a range at all
    if first >= size:
        raise RangeOutside
    return ByteRange(first, last - first + 1)


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Return whether If-None-Match names this value, so that it need not be sent again."""
    if if_none_match is None:
        return False
    # If-None-Match compares weakly (section 13.1.2).
    named = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in named or etag in named
