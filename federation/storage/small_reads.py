"""Reads small blobs whole: from the read cache, or else with one look-up.

Inline blobs are verified at every read, files as verification.needs_verifying decides.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

import apsw

from federation.core import uses
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound
from federation.core.uses import Use
from federation.storage import blob_files
from federation.storage.blob_files import Damage, OpenBlob
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue.blobs import BlobRow, key_of, keys_of
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.context import StorageContext
from federation.storage.read_cache import CachedBlob
from federation.storage.verification import check_inline, needs_verifying


@dataclass(slots=True)
class _Found:
    """What a look-up in a thread brings back to the event loop."""

    data: list[bytes | None] = field(default_factory=list)
    lease: list[bytes] = field(default_factory=list)  # the stored access time is getting old
    damaged: list[tuple[Digest, int, Damage]] = field(default_factory=list)
    verified: list[tuple[bytes, int]] = field(default_factory=list)
    inline: list[tuple[Digest, CachedBlob]] = field(default_factory=list)  # leased, or about to be


class SmallReads:
    """read_small of local storage."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """See federation.core.store.Store. Raises SourceUnavailable, TooBusy."""
        hot = recall(self._core, digests, uses.current())
        rest = [digest for digest, one in zip(digests, hot, strict=True) if one is None]
        read = iter(await self._read_rest(rest) if rest else [])
        return [next(read) if one is None else one.data for one in hot]

    async def _read_rest(self, digests: Sequence[Digest]) -> list[bytes | None]:
        asked_ms, epoch, use = self._core.now_ms(), self._core.read_cache.epoch, uses.current()
        try:
            found = await self._core.reads.query(self._read, digests, asked_ms, use)
        except UNREADABLE as error:
            raise self._core.catalogue_unreadable(error) from error
        return self._settle(found, asked_ms, epoch, use)

    def read_at_once(self, digest: Digest) -> bytes | None:
        """See federation.core.store.LocalStore. A file, or damage, is left to a thread."""
        asked_ms, epoch, use = self._core.now_ms(), self._core.read_cache.epoch, uses.current()
        (hot,) = recall(self._core, [digest], use)
        if hot is not None:
            return hot.data
        found = self._core.resident.look(
            lambda at: self._read(at, [digest], asked_ms, use, inline_only=True)
        )
        if found is None or found.damaged:
            return None
        (data,) = self._settle(found, asked_ms, epoch, use)
        if data is None:
            raise BlobNotFound(digest)
        return data

    def _settle(self, found: _Found, asked_ms: int, epoch: int, use: Use) -> list[bytes | None]:
        """Lease what was found in this epoch, and remember it. Raises as set_aside_soon does."""
        self._note(found, asked_ms)
        if use is Use.PEEK:
            return found.data
        self._core.lease(found.lease, asked_ms, use)
        if use is Use.CLIENT:
            self._core.read_cache.keep(found.inline, epoch)
        if found.lease and self._core.is_behind():
            self._core.touches.doubt()  # closures rely on reads of directories as leases
        return found.data

    def _note(self, found: _Found, asked_ms: int) -> None:
        for key, ctime_ns in found.verified:
            self._core.touches.verified(key, asked_ms, ctime_ns)
        for digest, seq, damage in found.damaged:
            self._core.set_aside_soon(digest, seq, damage)

    def _read(
        self,
        connection: apsw.Connection,
        digests: Sequence[Digest],
        asked_ms: int,
        use: Use,
        *,
        inline_only: bool = False,
    ) -> _Found:
        """inline_only: raise BlockingIOError for a file."""
        found = _Found()
        renew_before = asked_ms - self._core.timing.granularity_ms
        keys = [key_of(digest) for digest in digests]
        # Each once: a repeated key would repeat the row with its bytes.
        rows = catalogue.read_rows(connection, list(dict.fromkeys(keys)))
        for digest, key in zip(digests, keys, strict=True):
            row, data = rows.get(key, (None, None))
            if digest.is_empty:
                found.data.append(b"")
            elif row is None or row.size_bytes != digest.size_bytes:
                found.data.append(None)
            elif inline_only and not row.inline:
                raise BlockingIOError(errno.EAGAIN, "a file")
            else:
                data = self._trusted(digest, row, data, found)
                found.data.append(data)
                used_ms = row.used_ms
                # A marked one is leased at once, which removes the mark: it was read.
                if row.renewed_ms(use) < renew_before or row.marked_ms:
                    found.lease.append(key)
                    used_ms = asked_ms
                if row.inline and data is not None:
                    found.inline.append((digest, CachedBlob(data, used_ms)))
        return found

    def _trusted(
        self, digest: Digest, row: BlobRow, data: bytes | None, found: _Found
    ) -> bytes | None:
        try:
            if data is None:
                return self._read_file(digest, row, found)
            check_inline(digest, data)
        except Damage as damage:
            found.damaged.append((digest, row.seq, damage))
            return None
        return data

    def _read_file(self, digest: Digest, row: BlobRow, found: _Found) -> bytes:
        path = self._core.directory.blob_path(digest)
        volume = self._core.directory.volume

        def read() -> tuple[OpenBlob, bytes]:
            with volume.open_blob(path, digest.size_bytes) as blob:
                return blob, blob_files.read_exactly(blob.fd, digest.size_bytes, 0)

        blob, data = volume.read_twice(read)
        if needs_verifying(self._core, row, blob.ctime_ns):
            check_inline(digest, data)
            found.verified.append((row.key, blob.ctime_ns))
        return data


def recall(core: StorageContext, digests: Sequence[Digest], use: Use) -> list[CachedBlob | None]:
    """Return the cached blob of each digest, or None; leases it like a look-up in the catalogue.

    Returns only None while leases wait to be written: only a look-up tells which of them are old.
    """
    if core.is_behind():
        return [None] * len(digests)
    hot = core.read_cache.look_up(digests)
    if use is Use.PEEK:
        return hot
    now_ms = core.now_ms()
    renew_before = now_ms - core.timing.granularity_ms
    old = [
        digest
        for digest, one in zip(digests, hot, strict=True)
        if one is not None and one.used_ms < renew_before
    ]
    if old:
        core.lease(keys_of(old), now_ms, use)
        if use is Use.CLIENT:
            core.read_cache.touched(old, now_ms)
    return hot
