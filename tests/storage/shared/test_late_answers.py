"""A node that was cut off, or stood still, between a question to the catalogue and its answer."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from federation.core.clock import ManualClock
from federation.core.errors import SourceUnavailable
from federation.core.provenance import FROM_CLIENT
from federation.core.uses import Use
from federation.storage.shared.catalogue.blobs import SiteBlobs
from federation.storage.shared.catalogue.settings import CatalogueSettings

KEY = b"\x01" + bytes(32)
SETTINGS = CatalogueSettings("postgresql://db/site", lease_s=3600.0)
HALF_S = SETTINGS.granularity_ms / 2000
LATE_S = HALF_S + 1


class Delayed:
    """Stands for the database and the flush: each answer comes after a while."""

    def __init__(self, clock: ManualClock, *after_s: float) -> None:
        self._clock = clock
        self.after_s = list(after_s)  # of the answers that are still to come

    async def ask_one(self, *_: object, **__: object) -> tuple[object, ...]:
        self._clock.advance(self.after_s.pop(0))
        return [3], 1, UUID(int=1)

    async def ask(self, *_: object, **__: object) -> list[tuple[object, ...]]:
        self._clock.advance(self.after_s.pop(0))
        return [(KEY, 3, 1, None, b"", b"abc")]

    async def cover(self, *_: object) -> None:
        """Everything is durable."""


def blobs_behind(*after_s: float) -> tuple[SiteBlobs, Delayed]:
    clock = ManualClock()
    database: Any = Delayed(clock, *after_s)
    return SiteBlobs(database, database, database, SETTINGS, clock), database


async def held(blobs: SiteBlobs, way: str) -> object:
    if way == "find":
        return await blobs.find([KEY], Use.CLIENT)
    if way == "find_offered":
        return await blobs.find_offered([KEY])
    if way == "accept_held":
        return await blobs.accept_held([KEY], FROM_CLIENT)
    return [at.size_bytes for at in (await look_up(blobs, Use.CLIENT)).values()]


async def look_up(blobs: SiteBlobs, use: Use) -> dict[bytes, Any]:
    return dict(await blobs.look_up([KEY], use, with_bytes=True))


WAYS = pytest.mark.parametrize("way", ["find", "find_offered", "accept_held", "look_up"])


@WAYS
async def test_d15_an_answer_that_took_too_long_for_its_lease_is_asked_for_again(way: str) -> None:
    blobs, database = blobs_behind(LATE_S, HALF_S)
    assert await held(blobs, way) == [3]
    assert not database.after_s, "the second one was believed"


@WAYS
async def test_d15_whose_answers_always_come_too_late_hears_neither_present_nor_missing(
    way: str,
) -> None:
    blobs, database = blobs_behind(*[LATE_S] * 3)
    with pytest.raises(SourceUnavailable, match="too late"):
        await held(blobs, way)
    assert not database.after_s


async def test_a_look_that_leases_nothing_may_take_its_time() -> None:
    blobs, _ = blobs_behind(LATE_S)
    assert await look_up(blobs, Use.PEEK)
