"""Killed nodes and servers of a shared site. What was acknowledged is there afterwards."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.storage.site_kills import kill_site
from tests.support.sites import TestSite

pytestmark = pytest.mark.servers


def test_d01_d02_a_killed_node_or_database_loses_nothing_acknowledged(
    site: TestSite, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    done = kill_site(site, tmp_path, 6, seed, ("node", "database"))
    assert done.blobs > 0, "no round got as far as an acknowledged blob: nothing was tested"


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_d01_d02_d03_a_hundred_kills_of_everything_lose_nothing_acknowledged(
    site: TestSite, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    done = kill_site(site, tmp_path, 100, seed, ("node", "database", "bucket"))
    assert set(done.killed) == {"node", "database", "bucket"}
    assert done.blobs > 100
