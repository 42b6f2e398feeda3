"""Random histories of pulls: what readers are given is right, and nothing is left behind.

Upstreams break, stall, trickle, lie and come back; readers join anywhere, read some, and leave;
the disk fills up. The order of steps on the event loop differs in each run, what happens does not.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import FederationError
from federation.core.memory_budget import MemoryBudget
from federation.upstream.pull_through import PullThrough
from federation.upstream.upstream import Upstream
from tests.storage.trouble import fills_up, received_files
from tests.support.seeds import by_seed, told
from tests.upstream.fakes import Script, ScriptedStore, until, upstream
from tests.upstream.test_pull import node

pytestmark = pytest.mark.slow

KIB = 1024
_SIZES = (20 * KIB, 100 * KIB, 400 * KIB, 3000 * KIB)


class History:
    """One node with some upstreams and some blobs that they may have."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.blobs = {digest_of(d): d for d in (rng.randbytes(rng.choice(_SIZES)) for _ in "123")}
        self.budget = MemoryBudget(rng.choice([0, 200 * KIB, 2**30]))
        self.upstreams: list[Upstream] = []
        self.stores: list[ScriptedStore] = []
        for name in "abc"[: rng.choice([1, 1, 2, 3])]:
            made, store = upstream(name, self._script(), hedge_delay_s=rng.choice([0.005, 1.0]))
            store.blobs = {d: b for d, b in self.blobs.items() if rng.random() < 0.8}
            self.upstreams.append(made)
            self.stores.append(store)

    def _script(self) -> Script:
        rng = self.rng
        sizes = [rng.randrange(max(_SIZES)) for _ in range(rng.choice([0, 1, 2, 6]))]
        return Script(
            down=rng.random() < 0.1,
            hang_on_open=rng.random() < 0.1,
            break_at=sorted(sizes) if rng.random() < 0.5 else sizes,
            stall_at=rng.randrange(max(_SIZES)) if rng.random() < 0.15 else None,
            flip_at=rng.randrange(max(_SIZES)) if rng.random() < 0.15 else None,
            chunk_bytes=rng.choice([5, 64, 700]) * KIB,
            extra=b"more" if rng.random() < 0.1 else b"",
            patience_s=rng.choice([0.01, 0.1]),
        )

    async def pause(self) -> None:
        if self.rng.random() < 0.3:
            await asyncio.sleep(self.rng.random() * 0.01)
        else:
            for _ in range(self.rng.randrange(12)):
                await asyncio.sleep(0)

    async def run(self, store: PullThrough) -> None:
        clients = [asyncio.ensure_future(self.client(store)) for _ in range(self.rng.randrange(9))]
        changing = asyncio.ensure_future(self._change())
        await self.pause()
        leaves = [each for each in clients if self.rng.random() < 0.3]
        for each in leaves:
            each.cancel()
            await self.pause()
        await asyncio.wait([*clients, changing], timeout=self.rng.choice([0.05, 0.5]))
        for each in (*clients, changing):
            each.cancel()
        for outcome in await asyncio.gather(*clients, changing, return_exceptions=True):
            if not isinstance(outcome, FederationError | asyncio.CancelledError | None):
                raise outcome

    async def _change(self) -> None:
        for _ in range(3):
            await self.pause()
            store = self.rng.choice(self.stores)
            store.script = self._script()

    async def client(self, store: PullThrough) -> None:
        for _ in range(self.rng.choice([1, 1, 3])):
            await self.pause()
            digest, data = self.rng.choice(list(self.blobs.items()))
            ask = self.rng.choice([self._stream, self._stream, self._whole])
            with suppress(FederationError):
                await ask(store, digest, data)

    async def _whole(self, store: PullThrough, digest: Digest, data: bytes) -> None:
        for found in await store.read_small([digest]):
            assert found in (None, data)

    async def _stream(self, store: PullThrough, digest: Digest, data: bytes) -> None:
        rng = self.rng
        at = rng.choice([0, 0, rng.randrange(len(data))])
        limit = rng.choice([None, None, rng.randrange(1, len(data))])
        wanted = data[at:] if limit is None else data[at : at + limit]
        patience = rng.choice([1, 3, 1000])
        read: list[bytes] = []
        async with store.open_read(digest, offset=at, limit=limit) as chunks:
            async for chunk in chunks:
                # Wrong bytes may come before they are known to be, but never to the end of a read.
                read.append(chunk)
                patience -= 1
                if not patience:
                    return
                await self.pause()
        assert b"".join(read) == wanted


@by_seed(40, 1000)
async def test_histories(tmp_path: Path, seeds: range) -> None:
    whole = 0
    for seed in told(seeds):
        whole += await tell_history(tmp_path / str(seed), random.Random(seed))
    assert whole >= len(seeds) // 4


async def tell_history(path: Path, rng: random.Random) -> int:
    """Return how many blobs came."""
    history = History(rng)
    options: dict[str, Any] = {"memory": history.budget, "pulls_max": rng.choice([1, 256])}
    async with (
        asyncio.timeout(60),
        node(path, *history.upstreams, **options) as (store, storage, shared),
    ):
        fills_up(storage, rng)
        await history.run(store)
        await until(lambda: not shared.pulls._pulls and not shared.small._waiting)
        await shared.small.wait_kept()
        await until(lambda: not received_files(storage))
        await until(lambda: storage.core.space.reserved_bytes == 0)
        assert history.budget.used_bytes == 0
        present = set(history.blobs) - await storage.find_missing(list(history.blobs))
        for digest in present:
            async with storage.open_read(digest) as chunks:
                assert b"".join([chunk async for chunk in chunks]) == history.blobs[digest]
    return len(present)
