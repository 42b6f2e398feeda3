"""A finder over real storage and scripted upstreams, and how tests ask it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.closure.checker import ClosureChecker
from federation.config.model import LimitsConfig
from federation.core.clock import Clock, SystemClock
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import SourceUnavailable
from federation.core.index import Entry, EntryKey, FetchedAsset, Index, IndexElsewhere
from federation.observability.metrics import Metrics
from federation.storage.storage import Storage
from federation.upstream.entry_finder import EntryQuery, FederatedFinder
from federation.upstream.prefetch import Mode, Prefetcher
from federation.upstream.pull_through import UpstreamPool
from federation.upstream.questions import ActionQuestion, AssetQuestion
from federation.upstream.upstream import Upstream
from federation.wire.action_result import key_of
from federation.wire.asset_key import CHECKSUM
from federation.wire.asset_request import entries_of, wanted_by
from tests.storage.conftest import opened, short
from tests.support.fakes import MemoryIndex
from tests.support.messages import message_of
from tests.upstream.fakes import ScriptedStore, upstream


@dataclass
class ScriptedIndex(IndexElsewhere):
    """Answers by script, without a remote."""

    name: str
    order: list[str]  # of all who are asked, shared
    results: dict[Digest, bytes] = field(default_factory=dict)
    assets: dict[str, FetchedAsset] = field(default_factory=dict)
    down: bool = False
    gate: asyncio.Event | None = None

    @property
    def asked(self) -> int:
        return self.order.count(self.name)

    async def _answer(self) -> None:
        self.order.append(self.name)
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise SourceUnavailable(self.name, "refused")

    def instance_below(self, name: str) -> str:
        return name

    async def get_action_result(self, action: Digest, instance: str | None = None) -> bytes | None:
        await self._answer()
        return self.results.get(action)

    async def fetch_blob(
        self,
        uris: Sequence[str],
        qualifiers: Mapping[str, str] | None = None,
        function: DigestFunction = DigestFunction.SHA256,
        oldest_content_accepted_s: float | None = None,
        instance: str | None = None,
    ) -> FetchedAsset | None:
        await self._answer()
        return next((self.assets[uri] for uri in uris if uri in self.assets), None)

    fetch_directory = fetch_blob


class AwayIndex(MemoryIndex):
    """Its catalogue is a server that does not answer."""

    async def get(self, keys: Sequence[EntryKey]) -> list[Entry | None]:
        raise SourceUnavailable("the site's database", "no answer")

    async def get_like(self, keys: Sequence[EntryKey]) -> list[Entry]:
        raise SourceUnavailable("the site's database", "no answer")


@dataclass
class There:
    """One scripted upstream."""

    upstream: Upstream
    store: ScriptedStore
    index: ScriptedIndex

    def names(self, uri: str, data: bytes, *, holds: bool = True) -> Digest:
        """Let it have an asset, and its blob too unless told not to."""
        digest = digest_of(data)
        self.index.assets[uri] = FetchedAsset(uri, digest)
        if holds:
            self.store.blobs[digest] = data
        return digest

    @property
    def is_down(self) -> bool:
        return self.index.down

    @is_down.setter
    def is_down(self, down: bool) -> None:
        self.index.down = self.store.script.down = down


@dataclass
class Here:
    finder: FederatedFinder
    storage: Storage
    shared: UpstreamPool
    prefetcher: Prefetcher

    async def fetch(self, *uris: str, checksum: str = "") -> Digest | None:
        """Ask for an asset as FetchBlob does."""
        request = asset.FetchBlobRequest(uris=uris)
        if checksum:
            request.qualifiers.add(name=CHECKSUM, value=checksum)
        wanted = wanted_by(request)
        asked = EntryQuery(wanted.keys, _any, AssetQuestion(request, wanted))
        return _content(await self.finder.find(asked))

    def recalled(self, uri: str) -> Digest | None:
        """What is known of an asset without waiting."""
        (key,) = wanted_by(asset.FetchBlobRequest(uris=[uri])).keys
        return _content(self.finder.recall(key))

    async def result(self, action: Digest) -> bytes | None:
        """Ask as GetActionResult does."""
        key = key_of("", action)
        entry = await self.finder.find(EntryQuery([key], _any, ActionQuestion(key, action)))
        return None if entry is None else entry.value

    async def push(self, uri: str, data: bytes, *, holds: bool = True) -> None:
        digest = digest_of(data)
        if holds:
            await self.storage.write_small([(digest, data)])
        pushed = asset.PushBlobRequest(uris=[uri], blob_digest=message_of(digest))
        await self.storage.put(entries_of(pushed))

    async def held(self, uri: str) -> Entry | None:
        """What is stored under a name, whole or not."""
        (entry,) = await self.storage.get(wanted_by(asset.FetchBlobRequest(uris=[uri])).keys)
        return entry


async def _any(_entry: Entry) -> bool:
    return True


def _content(entry: Entry | None) -> Digest | None:
    if entry is None:
        return None
    found = asset.PushBlobRequest.FromString(entry.value).blob_digest
    return Digest(bytes.fromhex(found.hash), found.size_bytes)


def there(order: list[str], name: str, clock: Clock | None = None, **options: Any) -> There:
    index = ScriptedIndex(name, order)
    made, store = upstream(name, clock=clock, index=index, **options)
    return There(made, store, index)


@asynccontextmanager
async def finder_over(
    path: Path,
    *upstreams: There,
    clock: Clock | None = None,
    prefetch: Mode = "none",
    ttl_s: float = 300.0,
    blobs_elsewhere: bool = False,
    index: Index | None = None,
    **settings: object,
) -> AsyncIterator[Here]:
    clock, metrics, limits = clock or SystemClock(), Metrics(), LimitsConfig()
    async with opened(path / "data", short(**{"lease": 600.0, **settings})) as storage:
        purges, used = storage.ledger.purges, [each.upstream for each in upstreams]
        shared = UpstreamPool(
            "me", storage, used, clock, presence_budget_s=60, purged=purges.blobs_among
        )
        closures = ClosureChecker(storage, limits, clock, storage)
        prefetcher = Prefetcher(shared, limits, prefetch, metrics)
        finder = FederatedFinder(
            index or storage,
            closures,
            shared,
            prefetcher.enqueue,
            limits,
            clock,
            index_ttl_s=ttl_s,
            blobs_elsewhere=blobs_elsewhere,
            purged=purges.entries_among,
        )
        try:
            yield Here(finder, storage, shared, prefetcher)
        finally:
            await prefetcher.close()
            await finder.close()
            await shared.close()
            await closures.close()
