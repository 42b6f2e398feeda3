"""What a whole node shows and promises to its peers and on their behalf."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from federation.assembly import open_node
from federation.config import Config, Http, Listener
from federation.config_peers import Peer
from federation.digest import digest_of
from federation.node import Node
from federation.remote import Remote
from tests.process_client import Client
from tests.remote.blobs import noise
from tests.remote.served import Here, connected

DATA = noise(1000)


@asynccontextmanager
async def node(path: Path, *listeners: Listener, **keys: Any) -> AsyncIterator[Node]:
    keys.setdefault("http", Http(address=None))
    config = Config(data_dir=path, listeners=list(listeners), **keys)
    running = await open_node(config, [None] * len(listeners))
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
    push, pull = Listener(address="127.0.0.1:0", push=True), Listener(address="127.0.0.1:0")
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
        Listener(address="127.0.0.1:0", push=True, acknowledge=how, acknowledge_within=0.2)
        for how in ("local", "one-peer", "all-peers")
    ]
    down = Peer(name="down", url="grpc://127.0.0.1:1")
    http = Http(address="127.0.0.1:0")
    async with node(tmp_path / "a", *listeners, peers=[down], http=http) as there:
        for at, address in enumerate(there.listeners):
            await asyncio.to_thread(write, address, noise(100 + at))
        text = await asyncio.to_thread(scrape, there.http)
    for how in ("one-peer", "all-peers"):
        assert f'federation_acknowledge_timeouts_total{{acknowledge="{how}"}} 1.0' in text
    assert 'acknowledge="local"' not in text


def scrape(address: str | None) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def write(address: str, data: bytes) -> None:
    with Client(address) as client:
        client.write(data)
