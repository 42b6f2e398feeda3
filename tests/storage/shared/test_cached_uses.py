"""Uses that a node's cache served: what counts as leased at the site, and what is told to it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from federation.core.clock import ManualClock
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import SourceUnavailable
from federation.core.uses import Use
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.cached_uses import CachedUses
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue

GRANULARITY_S = 60.0
A, B, C = (digest_of(text) for text in (b"a", b"b", b"c"))


class Site:
    """A catalogue that holds A and B, and a node's uses."""

    def __init__(self) -> None:
        self.settings = CatalogueSettings("postgresql:///", 4 * GRANULARITY_S)
        assert self.settings.granularity_ms == GRANULARITY_S * 1000
        self.asked: list[list[bytes]] = []
        self.removals = 0
        self.is_away = False
        self.clock = ManualClock()
        watch = SimpleNamespace(presence=lambda: self.removals)
        catalogue = SimpleNamespace(settings=self.settings, blobs=self, watch=watch)
        self.uses = CachedUses(cast("SiteCatalogue", catalogue), self.clock)

    async def find(self, keys: Sequence[bytes], use: Use) -> list[int | None]:
        assert use is Use.CLIENT
        if self.is_away:
            raise SourceUnavailable("catalogue", "away")
        self.asked.append(list(keys))
        held = {key_of(digest): digest.size_bytes for digest in (A, B)}
        return [held.get(key) for key in keys]


@pytest.fixture
def site() -> Site:
    return Site()


async def test_a_batch_counts_as_leased_for_less_than_half_a_granularity(site: Site) -> None:
    batch = (A, B)
    assert not site.uses.are_leased(batch)
    await site.uses.lease(batch, Use.CLIENT)
    for _ in range(2):  # the second time as a whole
        assert site.uses.are_leased(batch)
    site.clock.advance(GRANULARITY_S / 2)
    assert not site.uses.are_leased(batch)
    assert not site.uses.are_leased([A])


async def test_nothing_counts_as_leased_once_objects_may_be_gone(site: Site) -> None:
    batch = (A, B)
    await site.uses.lease(batch, Use.CLIENT)
    assert site.uses.are_leased(batch)
    site.removals += 1
    assert not site.uses.are_leased(batch)


async def test_what_the_site_lacks_is_not_leased(site: Site) -> None:
    assert await site.uses.lease((A, C), Use.CLIENT) == [1, None]
    assert site.uses.are_leased([A])
    assert not site.uses.are_leased((A, C))
    assert site.asked == [[key_of(A), key_of(C)]]


async def test_blobs_of_all_digest_functions_are_leased(site: Site) -> None:
    other = digest_of(b"a", DigestFunction.BLAKE3)
    await site.uses.lease((A,), Use.CLIENT)
    assert not site.uses.are_leased((A, other))
    assert site.uses.are_leased((A, A))


async def test_a_use_is_told_once_in_half_a_granularity(site: Site) -> None:
    for digest in (A, A, B):
        site.uses.note(digest)
    await site.uses.flush()
    site.uses.note(B)
    await site.uses.flush()
    assert site.asked == [[key_of(A), key_of(B)]]
    site.clock.advance(GRANULARITY_S / 2)
    site.uses.note(B)
    await site.uses.flush()
    assert site.asked[1:] == [[key_of(B)]]


async def test_uses_wait_while_the_catalogue_is_away(site: Site) -> None:
    site.is_away = True
    site.uses.note(A)
    await site.uses.flush()
    assert repr(site.uses) == "<CachedUses 1 waiting>"
    site.is_away = False
    await site.uses.flush()
    assert site.asked == [[key_of(A)]]
    assert repr(site.uses) == "<CachedUses 0 waiting>"


async def test_uses_are_told_in_batches(site: Site) -> None:
    for number in range(5_001):
        site.uses.note(Digest(number.to_bytes(32), 1))
    await site.uses.flush()
    assert [len(keys) for keys in site.asked] == [5_000, 1]
