"""The fills under way: one for each blob, started by the first reader and joined by the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from federation.core.digest import Digest
from federation.core.errors import FederationError
from federation.core.tasks import Background
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.fill import BucketFill
from federation.storage.shared.naming import PART_BYTES
from federation.storage.shared.site_context import FROM_SITE, SiteContext

_FILLS_MAX = 64
_NEAR_BYTES = 2 * PART_BYTES  # a reader further ahead of a fill fetches its parts itself


class Fills:
    """Single-flight reading of large blobs from the bucket into the cache."""

    def __init__(self, core: SiteContext) -> None:
        self._core = core
        self._fills: dict[Digest, BucketFill] = {}
        self._background = Background()

    def __repr__(self) -> str:
        return f"<Fills {len(self._fills)} of {_FILLS_MAX}>"

    async def close(self) -> None:
        """Stop all fills; what they have fetched is dropped."""
        await self._background.close()

    @asynccontextmanager
    async def following(
        self, digest: Digest, at: BlobAt, offset: int
    ) -> AsyncIterator[BucketFill | None]:
        """Follow the blob's fill for a read from offset on; None: fetch the parts one by one."""
        fill = self._fills.get(digest)
        if fill is None and offset < PART_BYTES:
            fill = self._start(digest, at)
        if fill is None or fill.error is not None or offset > fill.available_bytes + _NEAR_BYTES:
            yield None
            return
        fill.readers += 1
        try:
            yield fill
        finally:
            fill.readers -= 1
            if not fill.readers and self._fills.get(digest) is not fill:
                await fill.close()

    def _start(self, digest: Digest, at: BlobAt) -> BucketFill | None:
        if digest.size_bytes <= self._core.settings.inline_max:
            return None  # it has no file that could be followed
        if len(self._fills) >= _FILLS_MAX or not self._core.cache_takes(digest.size_bytes):
            return None
        try:
            ingest = self._core.cache.begin(digest, provenance=FROM_SITE)
        except FederationError:
            return None  # the cache has no room for it, or is in trouble, which health() tells
        ingest.sync_at_commit()  # nobody who reads the blob waits for this disk
        fill = self._fills[digest] = BucketFill(self._core, digest, at, ingest)
        self._background.start(self._run(digest, fill), f"fill {digest}")
        return fill

    async def _run(self, digest: Digest, fill: BucketFill) -> None:
        try:
            await fill.run()
        finally:
            del self._fills[digest]
            if not fill.readers:
                await fill.close()
