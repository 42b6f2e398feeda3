"""Stores small blobs that come alone and whole: one visit to the writer's thread for each.

Whether a blob is held is looked up in the same visit. A visit that finds it held writes nothing, so
it waits for no sync of its own. Blobs that were written a moment ago need no visit.
"""

from __future__ import annotations

from federation.core import uses
from federation.core.digest import Digest
from federation.core.errors import (
    DigestMismatch,
    SourceUnavailable,
    StorageFailed,
    StorageFull,
)
from federation.core.provenance import Provenance, Source
from federation.core.uses import Use
from federation.storage.catalogue.blobs import BlobRow, key_of
from federation.storage.catalogue.transaction import Transaction
from federation.storage.context import StorageContext
from federation.storage.existence_cache import ExistenceCache
from federation.storage.publishing import find_or_place_inline, place_inline
from federation.storage.receiving import BlobReceiver, mismatches

_RECENT_MAX = 10_000  # names of blobs that were written lately; 150 bytes each


class SingleWrites:
    """write_one of local storage."""

    def __init__(self, core: StorageContext, receiver: BlobReceiver) -> None:
        self._core = core
        self._receiver = receiver
        self._recent = ExistenceCache(
            lambda: core.epoch.value, core.timing.granularity_ms, _RECENT_MAX
        )

    async def write_one(self, digest: Digest, data: bytes, origin: Provenance) -> bool:
        """See federation.core.store.LocalStore."""
        core, key, asked_ms = self._core, key_of(digest), self._core.now_ms()
        # An answer from memory counts as a use, so it is for clients only.
        is_use = origin.source is Source.CLIENT and uses.current() is Use.CLIENT
        if is_use and not core.is_behind() and not self._recent.unknown([key], asked_ms):
            return False
        # Before the visit: what goes while it is under way must not be remembered.
        epoch = self._recent.epoch
        try:
            if wrong := mismatches([(digest, data)]):
                raise wrong[0]
            if len(data) > core.settings.inline_max:
                return await self._write_file(digest, data, origin)
            is_new = await self._write_inline(digest, data, asked_ms, origin)
        # None of these matters for a blob that is held: clients skip what they see is stored.
        except (DigestMismatch, StorageFull, StorageFailed, SourceUnavailable) as error:
            if not await self._receiver.missing_of([digest], origin):
                return False
            if isinstance(error, StorageFull):
                core.note_refusal(len(data))
            raise
        if is_use:
            self._recent.remember([key], asked_ms, core.now_ms(), epoch)
        return is_new

    async def _write_file(self, digest: Digest, data: bytes, origin: Provenance) -> bool:
        if not await self._receiver.missing_of([digest], origin):
            return False
        if refused := await self._receiver.store_missing([(digest, data)], origin):
            raise refused[digest]
        return True

    async def _write_inline(
        self, digest: Digest, data: bytes, asked_ms: int, origin: Provenance
    ) -> bool:
        core, use = self._core, uses.current()

        def place(transaction: Transaction) -> bool | StorageFull:
            return place_inline(transaction, core.directory, [(digest, data)], origin)[0]

        def find_or_place(transaction: Transaction) -> bool | StorageFull | BlobRow:
            return find_or_place_inline(transaction, core.directory, digest, data, origin)

        core.directory.volume.check_writable()
        core.space.reserve(len(data))
        try:
            outcome = await core.writer.submit(find_or_place, len(data))
            if isinstance(outcome, BlobRow) and (core.is_late(asked_ms) or core.is_behind()):
                outcome = await core.writer.submit(place, len(data))  # the lease has to be written
        finally:
            core.space.release(len(data))
        if isinstance(outcome, StorageFull):
            raise outcome
        if not isinstance(outcome, BlobRow):
            return outcome
        if outcome.renewed_ms(use) < asked_ms - core.timing.granularity_ms:
            core.lease([outcome.key], asked_ms, use)
        return False
