"""What a wrong clock of a node has dated is dated anew for the whole site."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from federation.core.index import Entry, EntryKey, EntryKind, Stamp
from federation.storage.catalogue.hlc import DRIFT_S, is_too_far
from federation.storage.shared.storage import SharedStorage
from federation.storage.shared.upkeep.site_redating import SiteRedating
from federation.storage.upkeep.dates_ahead import STEADY_S
from tests.storage.shared.test_site_upkeep import leading
from tests.support.sites import TestSite

pytestmark = pytest.mark.servers
_YEAR_TICKS = 365 * 86_400_000 << 16


class NodeClock(SystemClock):
    """The machine's, off by what a test says."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.off_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.passed_s

    def wall_s(self) -> float:
        return super().wall_s() + self.off_s


@pytest.fixture
async def node(site: TestSite, tmp_path: Path) -> AsyncIterator[SharedStorage]:
    async with site.node(tmp_path / "data") as opened:
        yield opened


def entry(name: str) -> Entry:
    return Entry(EntryKey(EntryKind.ASSET_BLOB, "main", name.encode()), b"value", f"urn:{name}")


async def stamp(node: SharedStorage, name: str) -> Stamp:
    (found,) = await node.get([entry(name).key])
    assert found is not None
    return found.stamp


async def date_ahead(site: TestSite, node: SharedStorage) -> None:
    """Have one of two names, and a purge, dated a year ahead."""
    await node.put([entry("far"), entry("near")])
    await node.ledger.purges.purge([(digest_of(b"1"), "")], "alice")
    site.sql(
        f"UPDATE entry SET ticks = ticks + {_YEAR_TICKS}, node = 'elsewhere' WHERE name = 'far'; "
        f"UPDATE purge SET ticks = ticks + {_YEAR_TICKS}; "
        f"UPDATE site SET ticks = ticks + {_YEAR_TICKS}"
    )
    await node.core.catalogue.watch.refresh()


async def test_what_is_dated_too_far_ahead_gets_a_stamp_of_now_and_is_sent_again(
    site: TestSite, node: SharedStorage
) -> None:
    await date_ahead(site, node)
    clock, lead = NodeClock(), await leading(node)
    redating = SiteRedating(replace(node.core, clock=clock))
    far, near = await stamp(node, "far"), await stamp(node, "near")
    assert await redating.check(lead) == 0, "the clock may be set right at any moment"
    clock.passed_s += STEADY_S
    assert await redating.check(lead) == 1
    dated = await stamp(node, "far")
    assert near < dated < far
    assert not is_too_far(dated, clock.wall_s(), DRIFT_S)
    assert dated.node == node.node_id
    assert await stamp(node, "near") == near
    (row,) = (await node.ledger.read(2, 10)).rows
    assert row.key == entry("far").key
    (purge,) = (await node.ledger.purges.page(1, 10)).purges
    assert not is_too_far(purge.stamp, clock.wall_s(), DRIFT_S)
    await node.core.catalogue.watch.refresh()
    assert await redating.check(lead) == 0
    clock.passed_s += STEADY_S
    assert await redating.check(lead) == 0, "the site's own clock of stamps is right again"
    await node.put([entry("later")._replace(value=b"another")])
    assert await stamp(node, "later") > near


async def test_nothing_is_dated_anew_by_a_node_whose_own_clock_is_wrong(
    node: SharedStorage,
) -> None:
    await node.put([entry("near")])
    await node.core.catalogue.watch.refresh()
    clock, lead = NodeClock(), await leading(node)
    clock.off_s = -30 * 86_400.0
    redating = SiteRedating(replace(node.core, clock=clock))
    before = await stamp(node, "near")
    assert await redating.check(lead) == 0
    clock.passed_s += STEADY_S
    assert await redating.check(lead) == 0
    assert await stamp(node, "near") == before
