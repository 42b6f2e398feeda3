"""Fetches parts of large blobs from the bucket; none is handed on before its hash was compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from federation.core.digest import Digest, new_hasher
from federation.core.errors import BlobDamaged
from federation.storage.shared.catalogue.rows import BlobAt, BlobObject
from federation.storage.shared.naming import hash_part, part_bytes, part_count, part_hash, part_name
from federation.storage.shared.objects import ObjectBucket


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


class VerifiedObjects:
    """Reads whole blobs of a bucket for commands: see ObjectReader in admin/joining.py."""

    def __init__(self, bucket: ObjectBucket) -> None:
        self._bucket = bucket

    def __repr__(self) -> str:
        return f"<VerifiedObjects of {self._bucket!r}>"

    async def parts(self, digest: Digest, at: BlobAt) -> AsyncIterator[bytes]:
        """Yield a blob's parts, each verified, the last one after the whole was verified, too.

        Raises SourceUnavailable, BlobDamaged.
        """
        hasher = new_hasher(digest.function)
        count = part_count(digest.size_bytes)
        try:
            for part in range(count):
                data = await fetch_part(self._bucket, digest, at, part)
                hasher.update(data)
                if part == count - 1 and hasher.digest() != digest.hash:
                    raise PartDamaged("its objects together do not match its digest")
                yield bytes(data)
        except PartDamaged as damage:
            raise BlobDamaged(digest, str(damage)) from damage
