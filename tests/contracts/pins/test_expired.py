"""What storage.expire-after removes, whatever the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.core.digest import digest_of
from federation.core.index import Stamp
from federation.core.pins import PinKind, PinTarget
from federation.core.provenance import Provenance, Source
from tests.contracts.pins.pinned import LEAF, held, names, pin, result, tree_of
from tests.contracts.pins.sites import MAKERS, PARAMS, PinningSite

HOUR_MS = 3_600_000


@pytest.fixture(params=PARAMS)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[PinningSite]:
    async with MAKERS[request.param](request) as made:
        yield made


async def test_what_was_not_used_for_so_long_goes_unless_it_is_pinned(site: PinningSite) -> None:
    site.reconfigure(expire_after={"pr": "2h", "none": "1h"})
    digests = await tree_of(site, LEAF)
    of_pr = [result(name, digests[0], instance="pr") for name in (b"old", b"used", b"pinned")]
    others = [result(b"old", instance="main"), result(b"old", instance="pr/1")]
    await site.index.put([*of_pr, *others])
    await pin(site, PinTarget(PinKind.ACTION, "pr", digest=digest_of(b"pinned")))
    await site.pass_ms(4 * HOUR_MS)
    await site.index.get([of_pr[1].key])
    await site.pass_ms(0)
    await site.index.put([new := result(b"new", instance="pr")])
    await site.expire()
    assert await names(site, *of_pr) == [False, True, True]
    assert await names(site, *others, new) == [True, True, True]
    assert await held(site, digests) == digests


async def test_nothing_goes_before_its_time(site: PinningSite) -> None:
    site.reconfigure(expire_after={"pr": "6h"})
    await site.index.put([entry := result(b"a", instance="pr")])
    await site.pass_ms(4 * HOUR_MS)
    await site.expire()
    assert await names(site, entry) == [True]


async def test_a_peer_does_not_bring_back_what_has_expired_here(site: PinningSite) -> None:
    site.reconfigure(expire_after={"pr": "2h"})
    gone, pinned, held_here, young = (
        result(name, instance="pr") for name in (b"gone", b"pinned", b"held", b"young")
    )
    await site.index.put([held_here])
    await pin(site, PinTarget(PinKind.ACTION, "pr", digest=digest_of(b"pinned")))
    of_a_peer = Provenance(Source.PEER, via=("peer",), unused_s=4 * 3600.0)
    later = [each._replace(stamp=Stamp(1 << 50, "peer")) for each in (gone, pinned, held_here)]
    await site.index.put(later, provenance=of_a_peer)
    await site.index.put([young], provenance=of_a_peer._replace(unused_s=3600.0))
    assert await names(site, gone, pinned, held_here, young) == [False, True, True, True]
