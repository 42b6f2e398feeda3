"""A misbehaving server, and a client of ours that is connected to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.remote.fake_server import FakeServer
from tests.remote.served import Here, connected


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


@pytest.fixture
async def here(fake: FakeServer) -> AsyncIterator[Here]:
    async with connected(fake.address) as client:
        yield client


@pytest.fixture
async def hasty(fake: FakeServer) -> AsyncIterator[Here]:
    """One that takes half a second of silence for a stall: so may a busy machine be silent."""
    async with connected(fake.address, stall_s=0.5) as client:
        yield client
