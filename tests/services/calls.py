"""What tests say about calls."""

from __future__ import annotations

from collections.abc import Awaitable

import grpc
import pytest


async def refused(call: Awaitable[object], code: grpc.StatusCode) -> str:
    """Assert that a call ends with this status; return its message."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value
    return caught.value.details() or ""
