"""Peers that are no nodes of ours: casd and BuildGrid get what they can take."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.core.digest import digest_of
from tests.remote.fake_server import Proxy
from tests.remote.served import connected
from tests.remote.test_stock_servers import SERVERS
from tests.replication.here import Here, asset_of, peer, remembering, replicating, result_of

pytestmark = pytest.mark.clients

ACTION = digest_of(b"action")


@pytest.fixture(params=SERVERS)
async def address(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    with SERVERS[request.param](tmp_path / "there") as socket:
        async with Proxy(socket) as proxy:
            yield proxy.address


async def test_blobs_and_results_arrive_and_status_says_what_is_not_taken(
    address: str, tmp_path: Path
) -> None:
    blobs = [random.Random(at).randbytes(100 + 40 * at) for at in range(300)]
    large = random.Random(0).randbytes(9_000_000)
    async with replicating(tmp_path / "here", peer(address)) as here:
        await here.caught_up()
        digests = [*await here.push(*blobs), await here.write(large)]
        await here.put(result_of(ACTION, *digests), asset_of("urn:test:a", digests[0]))
        await here.caught_up(timeout_s=60)
        async with connected(address) as client:
            assert await client.store.find_missing(digests) == set()
            result = await client.index.get_action_result(ACTION)
            assert result == (await here.storage.get([result_of(ACTION).key]))[0].value  # type: ignore[union-attr]
            has_asset = await client.index.fetch_blob(["urn:test:a"]) is not None
        # A service that is not there is taken for missing only after minutes.
        parked = [each.label for each in await here.ledger.parked("there")]
        assert parked == ([] if has_asset else ["urn:test:a"])


async def test_a_reconcile_finds_what_is_there_and_leaves_it(address: str) -> None:
    async def send(here: Here) -> None:
        digests = await here.push(*(b"blob %d" % at for at in range(50)))
        await here.put(result_of(ACTION, *digests))
        await here.replication.reload([peer(address)])
        await here.caught_up(timeout_s=60)

    async with remembering() as here:
        await send(here)
        assert here.facts()["sent-objects"] == 51
    async with remembering() as here:
        await send(here)
        assert here.facts()["sent-objects"] == 0
