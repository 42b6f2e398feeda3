"""Ends running reads of a blob that is purged meanwhile.

A read holds its file open, so without this it would go on to the end of a file that has no name any
more. The epoch moves with each purge, and for other reasons; only then the records are looked at.
"""

from __future__ import annotations

from federation.core.digest import Digest
from federation.core.errors import BlobNotFound
from federation.storage.catalogue import purges
from federation.storage.catalogue.blobs import key_of
from federation.storage.context import StorageContext


class PurgeWatch:
    """Watches one blob from the moment this is made, which must be before its row is looked up."""

    def __init__(self, core: StorageContext, digest: Digest) -> None:
        self._core = core
        self._digest = digest
        self._epoch = core.epoch.value

    @property
    def is_due(self) -> bool:
        """Whether the blob may have been purged since the last check."""
        return self._epoch != self._core.epoch.value

    async def check(self) -> None:
        """Raise BlobNotFound if the blob was purged, SourceUnavailable if that cannot be read."""
        keys = [key_of(self._digest)]
        self._epoch = self._core.epoch.value
        if await self._core.look_up(lambda at: purges.blobs_among(at, keys)):
            raise BlobNotFound(self._digest)
