"""Deletes what unfinished uploads have left in the bucket.

The bucket is listed in 256 slices a day. An object is deleted if it has no row, does not wait to be
deleted, and is older than two days by the bucket's own clock: an upload that takes longer than one
day is refused its row, so no upload is hit. Names that no upload could have are left alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import structlog

from federation.storage.shared.catalogue.rows import BlobObject
from federation.storage.shared.naming import SLICES, ObjectName, parse, part_name
from federation.storage.shared.objects import Listed
from federation.storage.shared.site_context import SiteContext

EVERY_S = 86_400.0 / SLICES
_OLD_S = 2 * 86_400.0

_log = structlog.get_logger(__name__)


class BucketSweep:
    """Remembers which slice is next; after a change of leads it begins anywhere."""

    def __init__(self, core: SiteContext, chance: random.Random, old_s: float = _OLD_S) -> None:
        self._core = core
        self._next = chance.randrange(SLICES)
        self._old_s = old_s

    async def sweep_next(self) -> int:
        """Sweep one slice; return how many objects were deleted. Raises SourceUnavailable."""
        slice_, self._next = self._next, (self._next + 1) % SLICES
        return await self.sweep(slice_)

    async def sweep(self, slice_: int) -> int:
        """Sweep the objects whose hash begins with this byte. Raises SourceUnavailable."""
        await self._core.marker.check_or_fail()
        before_s = await self._core.bucket.now_s() - self._old_s
        deleted = 0
        async for page in self._core.bucket.list(f"{slice_:02x}"):
            names = await self._unknown(_older(page, before_s))
            await self._core.bucket.delete(names)
            deleted += len(names)
        if deleted:
            self._core.metrics.bucket.swept.inc(deleted)
            _log.info("bucket_swept", objects=deleted)
        return deleted

    async def _unknown(self, found: list[ObjectName]) -> list[str]:
        uploads: list[BlobObject] = list(dict.fromkeys(each.upload for each in found))
        if not uploads:
            return []
        known = await self._core.catalogue.blobs.objects_known(uploads)
        unknown = {upload for upload, is_known in zip(uploads, known, strict=True) if not is_known}
        return [part_name(each.upload, each.part) for each in found if each.upload in unknown]


def _older(page: Iterable[Listed], before_s: float) -> list[ObjectName]:
    names = (parse(each.name) for each in page if each.modified_s < before_s)
    return [name for name in names if name is not None]
