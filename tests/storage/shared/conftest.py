"""A fresh database for each test, and nodes of a site."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from federation.storage.shared.storage import SharedStorage
from tests.storage.shared.site import SiteDatabase
from tests.support.postgres import Postgres
from tests.support.sites import TestSite


@pytest.fixture
def database(postgres_server: Postgres) -> Iterator[SiteDatabase]:
    made = SiteDatabase(postgres_server)
    yield made
    made.drop()


@pytest.fixture
async def nodes(site: TestSite, tmp_path: Path) -> AsyncIterator[list[SharedStorage]]:
    """Two nodes of one site."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(site.node(tmp_path / name)) for name in "ab"]
