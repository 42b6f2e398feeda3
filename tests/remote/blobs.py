"""Blobs, and short ways to move them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest

from federation.core.digest import Digest
from federation.remote.failures import FailureKind, RemoteFailed
from federation.remote.store import RemoteStore


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def text(size: int) -> bytes:
    """Bytes that do."""
    return (b"a line of text that comes again and again\n" * (size // 42 + 1))[:size]


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def until(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Let others run until condition() is true; fail with `what` at the deadline."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in grpc
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s: {what}") from None


async def read(store: RemoteStore, digest: Digest, **options: int) -> bytes:
    async with store.open_read(digest, **options) as stream:  # type: ignore[arg-type]
        return b"".join([chunk async for chunk in stream])


async def read_until_failure(
    store: RemoteStore, digest: Digest, kind: FailureKind
) -> tuple[bytes, RemoteFailed]:
    """Read a blob that fails on the way; return what came and how it failed."""
    came: list[bytes] = []

    async def collect() -> None:
        async with store.open_read(digest) as stream:
            async for chunk in stream:
                came.append(chunk)  # noqa: PERF401 - it ends in the middle

    with pytest.raises(RemoteFailed) as caught:
        await collect()
    assert caught.value.kind is kind, caught.value
    return b"".join(came), caught.value
