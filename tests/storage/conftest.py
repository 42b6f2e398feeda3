"""Real storage in a temporary folder, with leases short enough to watch."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from federation.config.model import LimitsConfig, ScrubConfig
from federation.config.model import StorageConfig as Settings
from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.observability.metrics import Metrics
from federation.storage.storage import Storage

MIB = 1024 * 1024


# Eviction frees one such gap each time it runs, so a wide one makes it strip all it may.
WIDE: Mapping[str, object] = {"high_watermark": 0.7, "low_watermark": 0.2}


def short(**changes: object) -> Settings:
    """Settings with a lease of half a second and no scrub, changed as said."""
    base = {"lease": 0.5, "scrub": ScrubConfig(rate=0)}
    return Settings.model_validate({**base, **changes})


@asynccontextmanager
async def opened(path: Path, settings: Settings) -> AsyncIterator[Storage]:
    storage = await Storage.open(path, settings, LimitsConfig(), Metrics(), SystemClock())
    try:
        yield storage
    finally:
        await storage.close()


@pytest.fixture
async def open_storage(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Storage]]]:
    """A function that opens the test's data directory, once more at each call."""
    async with AsyncExitStack() as stack:

        async def open_one(settings: Settings | None = None) -> Storage:
            return await stack.enter_async_context(opened(tmp_path / "data", settings or short()))

        yield open_one


def fresh(size_bytes: int) -> tuple[Digest, bytes]:
    """A blob that nobody has."""
    data = os.urandom(size_bytes)
    return digest_of(data), data


async def put(storage: Storage, data: bytes) -> Digest:
    (refused,) = await storage.write_small([(digest_of(data), data)])
    assert refused is None
    return digest_of(data)


async def read(storage: Storage, digest: Digest) -> bytes:
    async with storage.open_read(digest) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 60) -> None:
    """Poll until the condition holds; fail after a deadline."""
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 - the other side has no event to give
            await asyncio.sleep(0.02)
