"""The record of lost blobs in an open data directory: see federation/core/lost_blobs.py."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from federation.core.digest import Digest
from federation.core.lost_blobs import Attempt, LostSlice
from federation.storage.catalogue import lost
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.context import StorageContext


class CatalogueLostBlobs:
    """See federation.core.lost_blobs.LostBlobs."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<CatalogueLostBlobs in {self._core.directory.root}>"

    async def due(self, now_s: float, limit: int) -> LostSlice:
        """See LostBlobs."""
        pool = self._core.pool
        try:
            return await pool.run(lambda: lost.due(pool.connection(), now_s, limit))
        except UNREADABLE as error:
            raise self._core.catalogue_unreadable(error) from error

    async def put_off(self, attempts: Sequence[Attempt]) -> None:
        """See LostBlobs."""
        await self._core.writer.submit(lambda transaction: lost.put_off(transaction, attempts))

    async def note_back(self, digests: Collection[Digest]) -> dict[Digest, str]:
        """See LostBlobs."""
        return await self._core.writer.submit(
            lambda transaction: lost.note_back(transaction, digests)
        )
