"""Small blobs of a shared site: read in batches, and stored in one durable step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from federation.core import uses
from federation.core.digest import Digest
from federation.core.errors import (
    BlobDamaged,
    BlobNotFound,
    DigestMismatch,
    FederationError,
    SourceUnavailable,
    StorageFull,
)
from federation.core.provenance import Provenance
from federation.core.uses import Use
from federation.storage.catalogue.blobs import key_of, keys_of
from federation.storage.receiving import HASH_INLINE_BYTES, mismatches
from federation.storage.shared.catalogue.rows import BlobAt, Insertion, NewBlob
from federation.storage.shared.fills import Fills
from federation.storage.shared.site_context import SiteContext
from federation.storage.shared.site_presence import SitePresence, not_held
from federation.storage.shared.site_reading import SiteReading
from federation.storage.shared.site_receiving import SiteReceiver

_LARGE_AT_ONCE = 8


class SiteSmall:
    """read_small, write_small and write_one of a shared site."""

    def __init__(
        self, core: SiteContext, presence: SitePresence, fills: Fills, receiver: SiteReceiver
    ) -> None:
        self._core = core
        self._presence = presence
        self._fills = fills
        self._receiver = receiver

    # -- reading ---------------------------------------------------------------------------

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """See federation.core.store.Store.

        What the cache has is returned without a question if the catalogue leased it a moment ago,
        or if the catalogue is away; else it is leased first: closures rely on that.
        """
        here_now = await self._from_cache(digests)
        # No None is among them; the empty blob, which is never leased, takes the long way, too.
        if all(here_now) and self._core.uses.are_leased(digests):
            return here_now
        cached = dict(zip(digests, here_now, strict=True))
        wanted = [digest for digest in cached if not digest.is_empty]
        rest = [digest for digest in wanted if cached[digest] is None]
        here = [digest for digest in wanted if cached[digest] is not None]
        missing = await self._not_leased(here)
        found = await self._from_site(rest) if rest else {}
        return [
            None if digest in missing else found.get(digest, cached[digest]) for digest in digests
        ]

    async def _from_cache(self, digests: Sequence[Digest]) -> list[bytes | None]:
        with suppress(SourceUnavailable):  # the cache's trouble is in health()
            if self._core.purged.is_current:
                return await self._core.cache.read_small(digests)
        return [b"" if digest.is_empty else None for digest in digests]

    async def _not_leased(self, digests: Sequence[Digest]) -> set[Digest]:
        """Lease what the cache served; return what the site does not hold any more."""
        if uses.current() is Use.PEEK or self._core.uses.are_leased(digests):
            return set()
        try:
            return not_held(digests, await self._core.uses.lease(digests, uses.current()))
        except SourceUnavailable:
            return set()

    async def _from_site(self, digests: Sequence[Digest]) -> dict[Digest, bytes | None]:
        core = self._core
        keys = keys_of(digests)
        rows = await core.catalogue.blobs.look_up(keys, uses.current(), with_bytes=True)
        found: dict[Digest, bytes | None] = {}
        large: list[Digest] = []
        for digest, key in zip(digests, keys, strict=True):
            at = rows.get(key)
            if at is None or at.size_bytes != digest.size_bytes:
                found[digest] = None
            elif at.attempt is None:
                found[digest] = at.data
            else:
                large.append(digest)
        await self._drop_damaged(found, rows)
        core.keep_small([(d, data) for d, data in found.items() if data is not None])
        for at_once in range(0, len(large), _LARGE_AT_ONCE):
            some = large[at_once : at_once + _LARGE_AT_ONCE]
            found.update(zip(some, await asyncio.gather(*map(self._read, some)), strict=True))
        return found

    async def _drop_damaged(
        self, found: dict[Digest, bytes | None], rows: dict[bytes, BlobAt]
    ) -> None:
        held = [(digest, data) for digest, data in found.items() if data is not None]
        for position, error in (await self._mismatches(held)).items():
            digest = held[position][0]
            await self._core.set_aside(digest, rows[key_of(digest)], str(error))
            found[digest] = None

    async def _read(self, digest: Digest) -> bytes | None:
        try:
            async with SiteReading(self._core, self._fills, digest, 0, None, None) as chunks:
                return b"".join([chunk async for chunk in chunks])
        except (BlobNotFound, BlobDamaged):
            return None

    # -- writing ---------------------------------------------------------------------------

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], provenance: Provenance
    ) -> list[FederationError | None]:
        """See federation.core.store.Store."""
        wrong = await self._mismatches(blobs)
        small: Sequence[tuple[Digest, bytes]] = blobs
        large: dict[Digest, bytes] = {}
        sizes = [len(data) for _, data in blobs]
        inline_max = self._core.settings.inline_max
        if wrong or min(sizes, default=0) == 0 or max(sizes) > inline_max:
            right = {digest: data for at, (digest, data) in enumerate(blobs) if at not in wrong}
            small = [one for one in right.items() if 0 < len(one[1]) <= inline_max]
            large = {digest: data for digest, data in right.items() if len(data) > inline_max}
        refused = await self._insert(small, provenance)
        refused |= await self._upload(large, provenance)
        if not wrong and not refused:
            return [None] * len(blobs)
        return [wrong.get(at) or refused.get(digest) for at, (digest, _) in enumerate(blobs)]

    async def write_one(self, digest: Digest, data: bytes, provenance: Provenance) -> bool:
        """See federation.core.store.LocalStore."""
        if digest.is_empty:
            return False
        wrong = (await self._mismatches([(digest, data)])).get(0)
        is_large = len(data) > self._core.settings.inline_max
        if (wrong or is_large) and not await self._presence.missing_of([digest], provenance):
            return False
        if wrong is not None:
            raise wrong
        if is_large:
            return await self._receiver.write_whole(digest, data, provenance)
        (outcome,) = await self._core.catalogue.blobs.insert(
            [NewBlob(digest, data, provenance=provenance)]
        )
        if outcome is Insertion.FULL:
            raise self._full([digest])
        return outcome is Insertion.STORED

    async def _insert(
        self, blobs: Sequence[tuple[Digest, bytes]], provenance: Provenance
    ) -> dict[Digest, FederationError]:
        if not blobs:
            return {}
        rows = [NewBlob(digest, data, provenance=provenance) for digest, data in blobs]
        try:
            outcomes = await self._core.catalogue.blobs.insert(rows)
        except FederationError as error:
            return dict.fromkeys([digest for digest, _ in blobs], error)
        if Insertion.FULL not in outcomes:
            return {}
        pairs = zip(blobs, outcomes, strict=True)
        full = [digest for (digest, _), outcome in pairs if outcome is Insertion.FULL]
        return dict.fromkeys(full, self._full(full))

    async def _upload(
        self, blobs: dict[Digest, bytes], provenance: Provenance
    ) -> dict[Digest, FederationError]:
        if not blobs:
            return {}
        try:
            missing = list(await self._presence.missing_of(blobs.keys(), provenance))
        except FederationError as error:
            return dict.fromkeys(blobs, error)
        refused: dict[Digest, FederationError] = {}

        async def upload(digest: Digest) -> None:
            try:
                await self._receiver.write_whole(digest, blobs[digest], provenance)
            except FederationError as error:
                refused[digest] = error

        for at_once in range(0, len(missing), _LARGE_AT_ONCE):
            await asyncio.gather(*map(upload, missing[at_once : at_once + _LARGE_AT_ONCE]))
        return refused

    def _full(self, digests: Sequence[Digest]) -> StorageFull:
        self._core.note_refusal(len(digests))
        size_bytes = sum(digest.size_bytes for digest in digests)
        return StorageFull(f"the site has no room for {size_bytes} bytes")

    async def _mismatches(self, blobs: Sequence[tuple[Digest, bytes]]) -> dict[int, DigestMismatch]:
        if sum(len(data) for _, data in blobs) <= HASH_INLINE_BYTES:
            return mismatches(blobs)
        return await asyncio.to_thread(mismatches, blobs)
