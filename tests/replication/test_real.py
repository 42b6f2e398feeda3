"""Replication into a real node in another process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.core.digest import digest_of
from tests.replication.here import asset_of, peer, replicating, result_of
from tests.support.process import Node, serve
from tests.support.process_client import Client


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Node]:
    with serve(tmp_path / "there", name="there") as node:
        yield node


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_what_is_pushed_here_is_there_soon(there: Node, tmp_path: Path) -> None:
    small = [noise(100 + at, at) for at in range(50)]
    large = noise(9_000_000, 7)
    with Client(there.address) as client:
        async with replicating(tmp_path / "here", peer(there.address)) as here:
            await here.caught_up()
            digests = await here.push(*small)
            digests.append(await here.write(large))
            action = digest_of(b"action")
            await here.put(result_of(action, *digests), asset_of("urn:test:a", digests[0]))
            facts = await here.caught_up()
            assert client.find_missing(digests) == set()
            assert client.read(digests[-1]) == large
            result = client.get_action_result(action)
            assert result is not None
            assert len(result.output_files) == len(digests)
            assert client.fetch_blob("urn:test:a") == digests[0]
            assert facts["sent-objects"] == len(digests) + 2
            assert facts["parked"] == 0
            assert facts["skipped"] == {}
            assert facts["node-id"] == there.facts["node_id"]


async def test_a_new_peer_gets_what_is_here_already(there: Node, tmp_path: Path) -> None:
    async with replicating(tmp_path / "here") as here:
        digests = await here.push(*(noise(200, at) for at in range(1200)))
        await here.put(result_of(digest_of(b"action"), *digests[:10]))
        await here.replication.reload([peer(there.address)])
        await here.caught_up()
        with Client(there.address) as client:
            assert client.find_missing(digests) == set()
            assert client.get_action_result(digest_of(b"action")) is not None


async def test_a_burst_of_2000_blobs_of_4_kib(there: Node, tmp_path: Path) -> None:
    async with replicating(tmp_path / "here", peer(there.address)) as here:
        await here.push(b"first")
        await here.caught_up()
        blobs = [noise(4096, at) for at in range(2000)]
        digests = await here.push(*blobs)
        loop = asyncio.get_running_loop()
        accepted_s = loop.time()
        with Client(there.address) as client:
            await here.caught_up()
            took_s = loop.time() - accepted_s
            assert client.find_missing(digests) == set()
        assert took_s < 5  # 0.3 s by itself on the machine that the bounds are for
