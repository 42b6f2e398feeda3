"""What a whole node shows and promises to its peers and on their behalf."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from federation.access.setup import LoadedFiles
from federation.config.model import Config, HttpConfig, ListenerConfig
from federation.config.peers import PeerConfig
from federation.config.upstreams import UpstreamConfig
from federation.core import hops
from federation.core.digest import digest_of
from federation.remote.client import Remote
from federation.server.assembly import open_node
from federation.server.node import Node
from tests.remote.blobs import noise
from tests.remote.served import Here, connected
from tests.support.process_client import Client

DATA = noise(1000)


@asynccontextmanager
async def node(path: Path, *listeners: ListenerConfig, **keys: Any) -> AsyncIterator[Node]:
    keys.setdefault("http", HttpConfig(address=None))
    config = Config(data_dir=path, listeners=list(listeners), **keys)
    running = await open_node(config, LoadedFiles([None] * len(listeners)))
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


async def announced(address: str) -> Remote:
    async with connected(address) as here:
        await here.remote.capabilities()
        return here.remote


async def store(here: Here, data: bytes) -> None:
    assert await here.store.write_small([(digest_of(data), data)]) == [None]


async def test_r20_a_node_tells_its_peers_who_it_is_and_how_far_its_log_goes(
    tmp_path: Path,
) -> None:
    push, pull = (
        ListenerConfig(address="127.0.0.1:0", push=True),
        ListenerConfig(address="127.0.0.1:0"),
    )
    async with node(tmp_path / "a", push, pull) as there:
        first = await announced(there.listeners[0])
        assert first.log_seen is not None
        async with connected(there.listeners[0]) as here:
            await store(here, DATA)
        second = await announced(there.listeners[0])
        assert second.log_seen == first.log_seen._replace(seq=first.log_seen.seq + 1)
        reader = await announced(there.listeners[1])
        assert (reader.node_id, reader.log_seen) == ("", None)
    async with node(tmp_path / "a", push) as there:  # the same directory is the same node
        again = await announced(there.listeners[0])
        assert (again.node_id, again.log_seen) == (first.node_id, second.log_seen)
    async with node(tmp_path / "b", push) as there:
        assert (await announced(there.listeners[0])).node_id not in {"", first.node_id}


async def test_a_write_is_not_held_back_for_longer_than_the_listener_says(tmp_path: Path) -> None:
    listeners = [
        ListenerConfig(address="127.0.0.1:0", push=True, acknowledge=how, acknowledge_within=0.2)
        for how in ("local", "one-peer", "all-peers")
    ]
    down = PeerConfig(name="down", url="grpc://127.0.0.1:1")
    http = HttpConfig(address="127.0.0.1:0")
    async with node(tmp_path / "a", *listeners, peers=[down], http=http) as there:
        for at, address in enumerate(there.listeners):
            await asyncio.to_thread(write, address, noise(100 + at))
        text = await asyncio.to_thread(scrape, there.http)
    for how in ("one-peer", "all-peers"):
        assert f'federation_acknowledge_timeouts_total{{acknowledge="{how}"}} 1.0' in text
    assert 'acknowledge="local"' not in text


def scrape(address: str | None) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


async def test_r07_replication_is_told_of_what_is_held_here_alone_on_every_listener(
    tmp_path: Path,
) -> None:
    push, pull = (
        ListenerConfig(address="127.0.0.1:0", push=True),
        ListenerConfig(address="127.0.0.1:0"),
    )
    async with node(tmp_path / "up", push) as up:
        async with connected(up.listeners[0]) as here:
            await store(here, DATA)
        hq = UpstreamConfig(name="hq", url=f"grpc://{up.listeners[0]}")
        async with node(tmp_path / "a", push, pull, upstreams=[hq]) as there:
            for address in there.listeners:
                async with connected(address) as here:
                    assert await here.store.find_missing([digest_of(DATA)]) == set()
                    with hops.serving(hops.Hops(replicates=True)):
                        missing = await here.store.find_missing([digest_of(DATA)])
                    assert missing == {digest_of(DATA)}


@pytest.mark.parametrize("how", ["one-peer", "all-peers"])
async def test_an_acknowledged_write_is_at_the_peer_when_its_client_is_told(
    tmp_path: Path, how: Literal["one-peer", "all-peers"]
) -> None:
    plain = ListenerConfig(address="127.0.0.1:0", push=True)
    async with node(tmp_path / "b", plain) as there:
        asks = plain.model_copy(update={"acknowledge": how, "acknowledge_within": 30.0})
        peers = [PeerConfig(name="there", url=f"grpc://{there.listeners[0]}")]
        async with node(tmp_path / "a", asks, peers=peers) as here:
            for size in (100, 3_000_000):
                data = noise(size)
                await asyncio.to_thread(write, here.listeners[0], data)
                async with connected(there.listeners[0]) as at_peer:
                    assert await at_peer.store.find_missing([digest_of(data)]) == set()


async def test_a_process_that_does_not_replicate_hears_of_acknowledgements_too(
    tmp_path: Path,
) -> None:
    plain = ListenerConfig(address="127.0.0.1:0", push=True)
    asks = plain.model_copy(update={"acknowledge": "all-peers", "acknowledge_within": 30.0})
    async with node(tmp_path / "b", plain) as there:
        peers = [PeerConfig(name="there", url=f"grpc://{there.listeners[0]}")]
        http = HttpConfig(address="127.0.0.1:0")
        first = node(tmp_path / "a", plain, peers=peers, http=http)
        second = node(tmp_path / "a", asks, peers=peers, http=http)
        async with first as replicates, second as other:
            await asyncio.to_thread(write, other.listeners[0], DATA)
            async with connected(there.listeners[0]) as at_peer:
                assert await at_peer.store.find_missing([digest_of(DATA)]) == set()
            leads = [
                "federation_replicates 1.0" in await asyncio.to_thread(scrape, each.http)
                for each in (replicates, other)
            ]
            assert leads == [True, False]
            text = await asyncio.to_thread(scrape, other.http)
            assert 'acknowledge_timeouts_total{acknowledge="all-peers"} 0.0' in text


async def test_a_new_configuration_brings_other_peers_without_a_restart(tmp_path: Path) -> None:
    plain = ListenerConfig(address="127.0.0.1:0", push=True)
    async with node(tmp_path / "b", plain) as there, node(tmp_path / "a", plain) as here:
        await asyncio.to_thread(write, here.listeners[0], DATA)
        peers = [PeerConfig(name="there", url=f"grpc://{there.listeners[0]}")]
        here.apply_config(Config(data_dir=tmp_path / "a", listeners=[plain], peers=peers))
        async with connected(there.listeners[0]) as at_peer, asyncio.timeout(30):
            while await at_peer.store.find_missing([digest_of(DATA)]):  # noqa: ASYNC110 - a node is waited for
                await asyncio.sleep(0.02)


def write(address: str, data: bytes) -> None:
    with Client(address) as client:
        client.write(data)
