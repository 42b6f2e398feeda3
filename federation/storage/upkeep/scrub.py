"""Re-reads and verifies all blobs in the background: disks lose data, and old blobs are not read.

Blobs are verified in the order of their keys, a few at a time and at a limited rate. The position
is stored in the catalogue, so that a restart continues there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import apsw
import structlog

from federation.core.digest import Digest
from federation.core.errors import FederationError, SourceUnavailable, TooBusy
from federation.observability.rate_limits import Complaints
from federation.storage import blob_files
from federation.storage.blob_files import Damage
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue.blobs import BlobRow
from federation.storage.context import StorageContext
from federation.storage.directory import DataDirectory
from federation.storage.verification import check_inline

_SLICE = 256
_AGE_FACTOR = 7  # a blob is scrubbed if its last verification is older than 7 times verify-after
_SAVE_EVERY_S = 60.0
_CURSOR = "scrub_cursor"

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ScrubSlice:
    """The result of verifying some blobs."""

    last_key: bytes | None = None  # the last one looked at; None: the end was reached
    blobs: int = 0
    size_bytes: int = 0
    good: list[tuple[bytes, int]] = field(default_factory=list)  # key, ctime_ns
    bad: list[tuple[BlobRow, Damage]] = field(default_factory=list)
    unknown: int = 0  # blobs that could not be checked because of the disk


def verify_slice(
    core: StorageContext, after: bytes, before_ms: int, limit: int = _SLICE
) -> ScrubSlice:
    """Verify those of the next limit rows in key order that were not verified since before_ms.

    Blocks; runs in a thread. Raises apsw.Error, TooBusy, and SourceUnavailable if the volume is in
    doubt.
    """
    rows: Any = core.reads.connection().execute(
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
            found.good.append((row.key, _verify(core, core.reads.connection(), row)))
        except Damage as damage:
            found.bad.append((row, damage))
        except SourceUnavailable:
            found.unknown += 1
            # Not the blob's: every further one would fail in the same way.
            if core.directory.volume.trouble:
                raise
    return found


def verify_stored(directory: DataDirectory, digest: Digest) -> int:
    """Verify a blob's file; return its ctime. Raises Damage, SourceUnavailable, TooBusy."""
    path = directory.blob_path(digest)

    def read() -> int:
        with directory.volume.open_blob(path, digest.size_bytes) as blob:
            blob_files.verify_file(blob.fd, digest)
            return blob.ctime_ns

    return directory.volume.read_twice(read)


def _verify(core: StorageContext, connection: apsw.Connection, row: BlobRow) -> int:
    digest = catalogue.digest_of_key(row.key, row.size_bytes)
    if not row.inline:
        return verify_stored(core.directory, digest)
    inline = connection.execute("SELECT data FROM small WHERE seq = ?", (row.seq,)).fetchone()
    data: Any = inline[0] if inline else b""
    check_inline(digest, data)
    return 0


class Scrubber:
    """Scrubs blobs. Used by the process that holds the maintenance lock."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._complaints = Complaints(_log, core.clock)

    async def run(self) -> None:
        """Scrub at the configured rate until cancelled; return at once if the rate is 0."""
        rate = self._core.settings.scrub.rate
        if not rate:
            return
        clock = self._core.clock
        age_ms = int(self._core.settings.verify_after * 1000 * _AGE_FACTOR)
        after = await self._core.reads.run(self._load_cursor)
        saved_s = clock.monotonic_s()
        while True:
            before_ms = self._core.now_ms() - age_ms
            try:
                found = await self._core.reads.run(verify_slice, self._core, after, before_ms)
            except (TooBusy, SourceUnavailable):  # clients come first; the volume may come back
                await clock.sleep(10.0)
                continue
            await self.note(found)
            after = found.last_key or b""
            if found.blobs and clock.monotonic_s() - saved_s > _SAVE_EVERY_S:
                saved_s = clock.monotonic_s()
                await self._try_to_save(after)
            # At the end a pause: with little stored, or all verified lately, the rows alone would
            # keep it busy.
            await clock.sleep(max(found.size_bytes / rate, 1.0 if after else 600.0))

    async def note(self, found: ScrubSlice) -> None:
        """Record what was verified, and quarantine what is damaged.

        A blob that may be right, and so cannot be quarantined, is added to found.unknown.
        """
        now_ms = self._core.now_ms()
        for key, ctime_ns in found.good:
            self._core.touches.verified(key, now_ms, ctime_ns)
        for row, damage in found.bad:
            digest = catalogue.digest_of_key(row.key, row.size_bytes)
            try:
                await self._core.set_aside(digest, row.seq, damage)
            except SourceUnavailable:
                found.unknown += 1

    async def _try_to_save(self, cursor: bytes) -> None:
        """Save the scrub's position. If that fails, the next attempt saves it."""
        try:
            await self._save_cursor(cursor)
        except FederationError as error:
            self._complaints.warn("scrub_position_not_saved", error)

    def _load_cursor(self) -> bytes:
        row: Any = (
            self._core.reads.connection()
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
