"""Compares all rows with the bucket, for a catalogue that is older than the bucket.

Each of the 256 slices is listed, a thousand objects a request, and its rows are compared with the
names and sizes. What the list does not have is asked for by itself before it counts as absent: the
list may be late, and of a very large slice only a part is remembered. Nothing is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from federation.core.digest import IMPLEMENTATIONS
from federation.storage.catalogue.blobs import digest_of_key
from federation.storage.shared.catalogue.rows import BlobAt, BlobObject
from federation.storage.shared.naming import SLICES, part_bytes, part_names
from federation.storage.shared.site_context import SiteContext

_ROWS = 2000
_AT_ONCE = 32  # blobs that are asked for by themselves
_REMEMBERED_MAX = 4_000_000  # objects of a slice: some 250 MB

_Row = tuple[bytes, BlobAt]


class BucketCheck:
    """Sets blobs aside whose objects are absent. All methods raise SourceUnavailable."""

    def __init__(self, core: SiteContext, remembered_max: int = _REMEMBERED_MAX) -> None:
        self._core = core
        self._remembered_max = remembered_max

    async def check_all(self) -> int:
        """See to it that every row's objects are there; return how many blobs were set aside."""
        return sum([await self._check(slice_) for slice_ in range(SLICES)])

    async def _check(self, slice_: int) -> int:
        listed = await self._list(slice_)
        absent = 0
        async for rows in self._rows(slice_):
            doubtful = [row for row in rows if not _objects(*row) <= listed]
            gone = await self._absent(doubtful)
            blobs = [(key, at.seq) for key, at in gone]
            absent += await self._core.catalogue.blobs.set_aside(
                blobs, "its object was not in the bucket"
            )
        return absent

    async def _list(self, slice_: int) -> set[int]:
        """Return hashes of the names and sizes in a slice: names would take four times as much."""
        listed: set[int] = set()
        async for page in self._core.bucket.list(f"{slice_:02x}"):
            listed.update(hash((each.name, each.size_bytes)) for each in page)
            if len(listed) >= self._remembered_max:
                break
        return listed

    async def _rows(self, slice_: int) -> AsyncIterator[Sequence[_Row]]:
        """Yield the rows of a slice whose bytes are in the bucket, in pages."""
        for function in IMPLEMENTATIONS:
            first = after = bytes((function, slice_))
            while after.startswith(first):
                rows = await self._core.catalogue.blobs.walk(after, _ROWS)
                yield [
                    (key, at)
                    for key, at in rows
                    if key.startswith(first) and at.attempt is not None
                ]
                after = rows[-1][0] if rows else b""

    async def _absent(self, doubtful: Sequence[_Row]) -> list[_Row]:
        absent: list[_Row] = []
        for first in range(0, len(doubtful), _AT_ONCE):
            some = doubtful[first : first + _AT_ONCE]
            there = await asyncio.gather(*(self._is_there(*row) for row in some))
            absent += [row for row, is_there in zip(some, there, strict=True) if not is_there]
        return absent

    async def _is_there(self, key: bytes, at: BlobAt) -> bool:
        for part, name in enumerate(part_names(_upload(key, at))):
            if await self._core.bucket.size_of(name) != part_bytes(at.size_bytes, part):
                return False
        return True


def _upload(key: bytes, at: BlobAt) -> BlobObject:
    return BlobObject(digest_of_key(key, at.size_bytes), at.attempt or b"")


def _objects(key: bytes, at: BlobAt) -> set[int]:
    """Return what _list() has of a blob whose objects are all there."""
    names = part_names(_upload(key, at))
    return {hash((name, part_bytes(at.size_bytes, part))) for part, name in enumerate(names)}
