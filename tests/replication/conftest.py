"""A scripted server for tests of replication."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.remote.fake_server import FakeServer


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server
