"""A fresh database for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.storage.shared.site import SiteDatabase
from tests.support.postgres import Postgres


@pytest.fixture
def database(postgres_server: Postgres) -> Iterator[SiteDatabase]:
    made = SiteDatabase(postgres_server)
    yield made
    made.drop()
