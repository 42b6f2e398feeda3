"""A body of unknown length, read up to a bound."""

from __future__ import annotations

from collections.abc import AsyncIterable


async def whole_body(parts: AsyncIterable[bytes], bytes_max: int) -> bytes:
    """Return all parts as one. Raises ValueError once they have more than bytes_max."""
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > bytes_max:
            raise ValueError(f"its answer has more than {bytes_max} bytes")
    return bytes(body)
