"""The background re-read of everything held: disks forget, and nobody reads old blobs.

In catalogue order, a few blobs at a time, at a limited rate; where it is, is kept in the catalogue
so that a restart goes on instead of beginning again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import apsw

from federation.core.errors import TooBusy
from federation.storage import blob_files
from federation.storage.blob_files import Damage
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue.blobs import BlobRow
from federation.storage.context import StorageContext
from federation.storage.verification import check_inline

_SLICE = 256
_AGE_FACTOR = 7  # a blob is scrubbed when it was not verified for this many times verify-after
_SAVE_EVERY_S = 60.0
_CURSOR = "scrub_cursor"


@dataclass(slots=True)
class ScrubSlice:
    """What verifying some blobs found."""

    last_key: bytes | None = None  # None: the end was reached
    blobs: int = 0
    size_bytes: int = 0
    good: list[tuple[bytes, int]] = field(default_factory=list)  # key, ctime_ns
    bad: list[tuple[BlobRow, str]] = field(default_factory=list)


def verify_slice(
    core: StorageContext, after: bytes, before_ms: int, limit: int = _SLICE
) -> ScrubSlice:
    """Verify the next blobs in key order that were not verified since before_ms.

    Looks at limit rows. Blocks; runs in a thread. Raises apsw.Error, TooBusy.
    """
    rows: Any = core.pool.connection().execute(
        f"SELECT {catalogue.COLUMNS} FROM blob "  # noqa: S608 - constants
        "WHERE key > ? ORDER BY key LIMIT ?",
        (after, limit),
    )
    found = ScrubSlice()
    for row in [BlobRow._make(row) for row in rows.fetchall()]:
        found.last_key = row.key
        if row.verified_ms >= before_ms:
            continue
        found.blobs += 1
        found.size_bytes += row.size_bytes
        try:
            found.good.append((row.key, _verify(core, core.pool.connection(), row)))
        except Damage as damage:
            found.bad.append((row, str(damage)))
    return found


def _verify(core: StorageContext, connection: apsw.Connection, row: BlobRow) -> int:
    digest = catalogue.digest_of_key(row.key, row.size_bytes)
    if not row.inline:
        return blob_files.verify_path(core.directory.blob_path(digest), digest)
    inline = connection.execute("SELECT data FROM small WHERE seq = ?", (row.seq,)).fetchone()
    data: Any = inline[0] if inline else b""
    check_inline(digest, data)
    return 0


class Scrubber:
    """Used by the process that holds the maintenance lock."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core

    async def run(self) -> None:
        """Scrub for ever at the configured rate."""
        rate = self._core.settings.scrub.rate
        if not rate:
            return
        clock = self._core.clock
        age_ms = int(self._core.settings.verify_after * 1000 * _AGE_FACTOR)
        after = await self._core.pool.run(self._load_cursor)
        saved_s = clock.monotonic_s()
        while True:
            before_ms = self._core.now_ms() - age_ms
            try:
                found = await self._core.pool.run(verify_slice, self._core, after, before_ms)
            except TooBusy:  # of file handles; clients go first
                await clock.sleep(10.0)
                continue
            await self.note(found)
            after = found.last_key or b""
            if found.blobs and clock.monotonic_s() - saved_s > _SAVE_EVERY_S:
                saved_s = clock.monotonic_s()
                await self._save_cursor(after)
            await clock.sleep(max(found.size_bytes / rate, 1.0 if after else 600.0))

    async def note(self, found: ScrubSlice) -> None:
        """Remember what was verified and set aside what is damaged."""
        now_ms = self._core.now_ms()
        for key, ctime_ns in found.good:
            self._core.touches.verified(key, now_ms, ctime_ns)
        for row, reason in found.bad:
            digest = catalogue.digest_of_key(row.key, row.size_bytes)
            await self._core.set_aside(digest, row.seq, reason)

    def _load_cursor(self) -> bytes:
        row: Any = (
            self._core.pool.connection()
            .execute("SELECT value FROM meta WHERE name = ?", (_CURSOR,))
            .fetchone()
        )
        return bytes(row[0]) if row else b""

    async def _save_cursor(self, cursor: bytes) -> None:
        await self._core.writer.submit(
            lambda tx: tx.connection.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", (_CURSOR, cursor)
            ).fetchall()
        )
