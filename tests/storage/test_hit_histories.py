"""Random histories of hits, pushes, evictions and damage, by two processes on one directory.

After each step a checker that remembers has to say the same as one that walks each time. What a hit
named is not evicted for a lease. A failure prints its seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.closure.checker import ClosureChecker
from federation.config.model import LimitsConfig
from federation.core.clock import ManualClock
from federation.core.digest import Digest, digest_of
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.uses import Peek, Use, counted_as
from federation.storage.catalogue.blobs import key_of, look_up
from federation.storage.storage import Storage
from federation.storage.upkeep.eviction import Evictor
from tests.storage.conftest import put, short
from tests.support.messages import directory, message_of, tree

Opener = Callable[..., Awaitable[Storage]]
LEASE_S = 3600.0
_ENTRIES = 6
_STEPS = 60
_DAMAGE = "UPDATE small SET data = CAST(data || 'x' AS BLOB) WHERE seq = ?"


def harm(rng: random.Random, path: Path) -> None:
    """Remove, cut or replace a file behind the node's back."""
    how = rng.choice(["unlink", "cut", "replace"])
    if how == "unlink":
        path.unlink()
    elif how == "cut":
        os.truncate(path, 1)
    else:
        other = path.parent.parent.with_name("other")
        other.write_bytes(b"other")
        other.rename(path)


class History:
    """Two storages, the entries that both serve, and what their hits have promised."""

    def __init__(self, storages: list[Storage], seed: int) -> None:
        self.rng = random.Random(seed)
        self.storages = storages
        self.clock = ManualClock()
        limits = LimitsConfig()
        self.hits = [ClosureChecker(each, limits, self.clock, each) for each in storages]
        self.walks = [ClosureChecker(Peek(each), limits, self.clock, None) for each in storages]
        self.blobs: dict[Digest, bytes] = {}
        self.keys: list[tuple[EntryKey, Entry, set[Digest]]] = []
        self.leased_until_ms: dict[Digest, int] = {}
        self.damaged: set[Digest] = set()
        self.outcomes: list[bool] = []

    def _blob(self, data: bytes) -> Digest:
        self.blobs[digest_of(data)] = data
        return digest_of(data)

    def make_entries(self) -> None:
        shared = [self._blob(self.rng.randbytes(size)) for size in (100, 80_000, 90_000)]
        for name in range(_ENTRIES):
            size = self.rng.choice([50, 70_000])
            leaves = [self._blob(self.rng.randbytes(size)), *self.rng.sample(shared, 2)]
            inner = directory({f"{at}": leaf for at, leaf in enumerate(leaves)})
            root = directory({}, {"inner": self._blob(inner)})
            result = reapi.ActionResult()
            result.output_files.add(path="f", digest=message_of(leaves[0]))
            named = {*leaves}
            if self.rng.random() < 0.5:
                named |= {self._blob(root), digest_of(inner)}
                result.output_directories.add(
                    path="d", root_directory_digest=message_of(digest_of(root))
                )
            else:
                whole = self._blob(tree(root, inner))
                result.output_directories.add(path="t", tree_digest=message_of(whole))
                named |= {whole}
            key = EntryKey(EntryKind.ACTION_RESULT, "", b"\x01" + name.to_bytes(40, "big"))
            self.keys.append((key, Entry(key, result.SerializeToString(), "action"), named))

    async def flush(self) -> None:
        for storage in self.storages:
            await storage.core.background.drain()
            await storage.flusher.flush()

    # -- steps -----------------------------------------------------------------------------

    async def push(self) -> None:
        _, entry, named = self.rng.choice(self.keys)
        storage = self.rng.choice(self.storages)
        for digest in self.rng.sample(sorted(named), self.rng.randint(1, len(named))):
            await put(storage, self.blobs[digest])
            self.damaged.discard(digest)
        await storage.put([entry])

    async def push_all(self) -> None:
        _, _, named = self.rng.choice(self.keys)
        for digest in named:
            await put(self.rng.choice(self.storages), self.blobs[digest])
            self.damaged.discard(digest)

    async def wait(self) -> None:
        await self.flush()
        seconds = self.rng.choice([1, 30, 90, LEASE_S / 2, LEASE_S, 2 * LEASE_S])
        self.clock.advance(seconds)
        for storage in self.storages:
            storage.core.store_clock._base_ms += int(seconds * 1000)

    async def mark(self) -> None:
        await Evictor(self.rng.choice(self.storages).core).mark(self.rng.choice([1, 2**40]))

    async def evict(self) -> None:
        await self.flush()
        await self.mark()
        held = self._held()
        for storage in self.storages:
            storage.core.store_clock._base_ms += storage.core.timing.grace_ms + 1
        await Evictor(self.rng.choice(self.storages).core).sweep_due()
        for digest in held - self._held():
            until_ms = self.leased_until_ms.get(digest, 0)
            assert until_ms < self.storages[0].core.now_ms(), "it was leased"

    def _held(self) -> set[Digest]:
        connection = self.storages[0].core.pool.connection()
        rows = look_up(connection, [key_of(digest) for digest in self.blobs])
        return {digest for digest in self.blobs if key_of(digest) in rows}

    async def harm_file(self) -> None:
        at = self.storages[0].core.directory
        paths = {digest: Path(at.blob_path(digest)) for digest in self.blobs}
        files = [digest for digest, path in paths.items() if path.exists()]
        if not files:
            return
        digest = self.rng.choice(files)
        harm(self.rng, paths[digest])
        self.damaged.add(digest)

    async def find_damage(self) -> None:
        """Damage a row, and read it in one of the processes."""
        digest = self.rng.choice(sorted(self.blobs))
        writer, reader = self.rng.choice(self.storages), self.rng.choice(self.storages)
        key = key_of(digest)
        row = look_up(writer.core.pool.connection(), [key]).get(key)
        if row is None or not row.inline:
            return
        await writer.core.writer.submit(
            lambda tx: tx.connection.execute(_DAMAGE, (row.seq,)).fetchall()
        )
        writer.core.epoch.bump()  # or what is read often would come from memory
        await reader.read_small([digest])
        await reader.core.background.drain()

    async def hit(self) -> None:
        at = self.rng.randrange(2)
        key, _, named = self.rng.choice(self.keys)
        (entry,) = await self.storages[at].get([key])
        if entry is None:
            return
        use = self.rng.choice([Use.CLIENT, Use.LEASE])
        with counted_as(use):
            said = await self.hits[at].complete(entry)
        walked = await self.walks[at].complete(entry)
        assert said == walked, f"remembered {said}, walked {walked}"
        self.outcomes.append(said)
        if said:
            until_ms = self.storages[at].core.now_ms() + int(LEASE_S * 1000)
            self.leased_until_ms |= dict.fromkeys(named, until_ms)

    async def run(self) -> None:
        steps = [self.push_all, self.wait, self.mark, self.evict, self.harm_file, self.find_damage]
        for _ in range(_STEPS):
            rest = [self.hit] * 10 + [self.push] * 2 + steps
            await self.rng.choice(rest)()
        for checker in (*self.hits, *self.walks):
            await checker.close()


@pytest.mark.parametrize("seed", range(12))
async def test_what_is_remembered_is_what_a_walk_finds(open_storage: Opener, seed: int) -> None:
    storages = [await open_storage(short(lease=LEASE_S, verify_after=0.0)) for _ in range(2)]
    history = History(storages, seed)
    history.make_entries()
    for data in history.blobs.values():
        await put(history.rng.choice(storages), data)
    await storages[0].put([entry for _, entry, _ in history.keys])
    await history.run()
    assert True in history.outcomes
