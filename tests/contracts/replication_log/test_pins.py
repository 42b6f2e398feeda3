"""What storages that keep records of pins must do, and the one in memory, too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.core.index import Stamp
from federation.core.pins import Pin, PinKind, PinTarget
from tests.contracts.replication_log.sites import ON_SERVERS, SITES, Site

TARGET, OTHER = PinTarget(PinKind.INSTANCE, "main"), PinTarget(PinKind.ASSETS, None, "urn:*")


@pytest.fixture(
    params=[*SITES, *(pytest.param(name, marks=pytest.mark.servers) for name in ON_SERVERS)]
)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with (SITES | ON_SERVERS)[request.param](request) as made:
        yield made


def pin(ticks: int, target: PinTarget = TARGET, *, is_removed: bool = False) -> Pin:
    stamp = Stamp(ticks, "node")
    return Pin(target, stamp, "label", None, "note", "by", 4e9, is_removed=is_removed)


async def test_the_later_stamp_of_a_target_wins_in_any_order(site: Site) -> None:
    pins = site.ledger.pins
    assert await pins.apply([pin(5), pin(3, OTHER)]) == 2
    assert await pins.apply([pin(4, is_removed=True), pin(5)]) == 0
    assert await pins.apply([pin(6, is_removed=True)]) == 1
    assert await pins.apply([pin(5)]) == 0
    page = await pins.page(0, 10)
    assert list(page.pins) == [pin(3, OTHER), pin(6, is_removed=True)]
    assert await pins.apply([pin(7)]) == 1
    assert list((await pins.page(page.last, 10)).pins) == [pin(7)]


async def test_the_later_stamp_wins_within_one_call(site: Site) -> None:
    """As pins of one instance here and of all may be the same target on a peer."""
    pins = site.ledger.pins
    assert await pins.apply([pin(6, is_removed=True), pin(5)]) == 1
    assert list((await pins.page(0, 10)).pins) == [pin(6, is_removed=True)]


async def test_pages_go_on_where_the_last_one_ended(site: Site) -> None:
    pins = site.ledger.pins
    empty = await pins.page(0, 10)
    assert (list(empty.pins), empty.last) == ([], 0)
    await pins.apply([pin(5), pin(5, OTHER)])
    first = await pins.page(0, 1)
    second = await pins.page(first.last, 1)
    assert [*first.pins, *second.pins] == [pin(5), pin(5, OTHER)]
    end = await pins.page(second.last, 1)
    assert (list(end.pins), end.last) == ([], second.last)
