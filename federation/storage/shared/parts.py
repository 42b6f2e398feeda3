"""Fetches parts of large blobs from the bucket; none is handed on before its hash was compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from federation.core.digest import Digest, new_hasher
from federation.core.errors import BlobDamaged
from federation.storage.shared.catalogue.rows import BlobAt, BlobObject
from federation.storage.shared.naming import part_bytes, part_count, part_name
from federation.storage.shared.objects import MARKER, ObjectBucket
from federation.storage.shared.part_hashes import hash_part, part_hash


class PartDamaged(Exception):
    """A part of a blob is absent from the bucket, or its bytes are wrong, twice in a row."""


async def fetch_part(bucket: ObjectBucket, digest: Digest, at: BlobAt, part: int) -> memoryview:
    """Return one part's bytes, verified. The caller bounds how many parts are in memory.

    Raises SourceUnavailable, PartDamaged.
    """
    assert at.attempt is not None
    name = part_name(BlobObject(digest, at.attempt), part)
    size_bytes = part_bytes(digest.size_bytes, part)
    for in_one in (False, True):  # bytes can also go wrong on the way
        data = await bucket.get(name, size_bytes, in_one=in_one)
        if data is None:
            raise PartDamaged(f"its object {name} is not in the bucket")
        if await asyncio.to_thread(hash_part, data) == part_hash(at.parts, part):
            return data
    raise PartDamaged(f"its object {name} does not have the bytes that were stored")


async def fetch_whole(
    bucket: ObjectBucket, digest: Digest, at: BlobAt, places: asyncio.Semaphore
) -> AsyncIterator[memoryview]:
    """Yield a blob's parts, each verified, the last one after the whole was compared, too.

    Whether the hashes of its parts prove the whole does not matter here: this is how it is found
    out whether a blob is what its digest names. Each part takes one of the places while it comes.
    Raises SourceUnavailable, PartDamaged.
    """
    whole = WholeHash(digest)
    for part in range(part_count(digest.size_bytes)):
        async with places:
            data = await fetch_part(bucket, digest, at, part)
            await whole.take(data)
        yield data


class WholeHash:
    """Compares a blob that is read part by part with its digest."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._hasher = new_hasher(digest.function)
        self._left_bytes = digest.size_bytes

    def __repr__(self) -> str:
        return f"<WholeHash {self._digest} without {self._left_bytes}>"

    async def take(self, part: memoryview) -> None:
        """Hash the next part. Raises PartDamaged: it is the last one, and the whole is wrong."""
        await asyncio.to_thread(self._hasher.update, part)
        self._left_bytes -= len(part)
        if not self._left_bytes and self._hasher.digest() != self._digest.hash:
            raise PartDamaged("its objects together do not match its digest")


class VerifiedObjects:
    """Reads whole blobs of a bucket for commands: see ObjectReader in admin/joining.py."""

    def __init__(self, bucket: ObjectBucket) -> None:
        self._bucket = bucket

    def __repr__(self) -> str:
        return f"<VerifiedObjects of {self._bucket!r}>"

    async def parts(self, digest: Digest, at: BlobAt) -> AsyncIterator[bytes]:
        """Yield what fetch_whole does. Raises SourceUnavailable, BlobDamaged."""
        try:
            async for data in fetch_whole(self._bucket, digest, at, asyncio.Semaphore()):
                yield bytes(data)
        except PartDamaged as damage:
            raise BlobDamaged(digest, str(damage)) from damage

    async def get_marker(self) -> bytes | None:
        """See ObjectReader."""
        return await self._bucket.get_marker()

    async def put_marker(self, data: bytes) -> None:
        """See ObjectReader."""
        await self._bucket.put(MARKER, data)
