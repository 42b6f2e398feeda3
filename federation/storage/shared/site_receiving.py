"""Begins uploads to a shared site."""

from __future__ import annotations

from collections.abc import AsyncIterable

from federation.core.digest import Digest, DigestFunction
from federation.core.errors import BlobTooLarge, StorageFull
from federation.core.provenance import Provenance
from federation.storage.ingest import LocalIngest
from federation.storage.ingest_steps import take_all
from federation.storage.shared.part_hashes import PartHasher
from federation.storage.shared.site_context import FROM_SITE, SiteContext
from federation.storage.shared.site_ingest import SiteIngest
from federation.storage.shared.site_presence import SitePresence


class SiteReceiver:
    """begin, begin_unsized and write of a shared site."""

    def __init__(self, core: SiteContext, presence: SitePresence) -> None:
        self._core = core
        self._presence = presence

    def begin(self, digest: Digest, provenance: Provenance) -> SiteIngest:
        """See federation.core.store.LocalStore."""
        self._check_room(digest)
        spool = self._core.cache.begin(digest, provenance=FROM_SITE)
        spool.sync_at_commit()  # the bucket makes the blob durable, the cache keeps a copy later
        return self._into(spool, digest.function, provenance, is_sized=True)

    def begin_unsized(
        self,
        function: DigestFunction,
        raw_hash: bytes | None,
        announced_bytes: int,
        provenance: Provenance,
    ) -> SiteIngest:
        """See federation.core.store.LocalStore."""
        self._check_room(Digest(raw_hash or b"", announced_bytes, function))
        spool = self._core.cache.begin_unsized(
            function, raw_hash, announced_bytes=announced_bytes, provenance=FROM_SITE
        )
        return self._into(spool, function, provenance, is_sized=False)

    def _into(
        self,
        spool: LocalIngest,
        function: DigestFunction,
        provenance: Provenance,
        *,
        is_sized: bool,
    ) -> SiteIngest:
        hasher = PartHasher(function)
        spool.hash_with(hasher)
        return SiteIngest(self._core, spool, hasher, provenance, is_sized=is_sized)

    async def write(
        self, digest: Digest, chunks: AsyncIterable[bytes], provenance: Provenance
    ) -> bool:
        """See federation.core.store.Store."""
        if not await self._presence.missing_of([digest], provenance):
            return False
        return await take_all(self.begin(digest, provenance), chunks)

    async def write_whole(self, digest: Digest, data: bytes, provenance: Provenance) -> bool:
        """Store a blob whose bytes are all in memory. Raises as Store.write does."""
        ingest = self.begin(digest, provenance)
        try:
            await ingest.append(data)
            return await ingest.commit()
        finally:
            await ingest.abort()

    def _check_room(self, digest: Digest) -> None:
        """Raises BlobTooLarge, StorageFull: before a byte is sent that could not be kept."""
        core, size_bytes = self._core, digest.size_bytes
        if size_bytes > core.settings.max_blob:
            raise BlobTooLarge(digest, core.settings.max_blob)
        quota_bytes = core.settings.quota
        if quota_bytes is None:
            return
        held_bytes = core.catalogue.watch.totals().cost_bytes
        if held_bytes + size_bytes > quota_bytes:
            core.note_refusal()
            raise StorageFull(f"the site's quota has no room for {size_bytes} bytes")
