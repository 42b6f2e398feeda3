"""Heads of answers, as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from functools import lru_cache

from federation.http_cache.statuses import phrase

Fields = Sequence[tuple[str, str]]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {phrase(status)}\r\n".encode()


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}\r\n".encode()


def head(
    status: int, size_bytes: int | None, fields: Fields, *, closes: bool, wall_s: float
) -> bytes:
    """Return the status line and the header fields, with the empty line behind them.

    size_bytes: of the body; None: there is none and can be none (204, 304).
    """
    parts = [_status_line(status), _date(int(wall_s))]
    if size_bytes is not None:
        parts.append(b"Content-Length: %d\r\n" % size_bytes)
    for name, value in fields:
        parts.append(f"{name}: {value}\r\n".encode("latin-1"))
    parts.append(b"Connection: close\r\n\r\n" if closes else b"\r\n")
    return b"".join(parts)
