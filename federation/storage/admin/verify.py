"""Verifies all blobs against their digests, and the catalogue's consistency."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw

from federation.config import model
from federation.storage.admin.common import joined
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.catalogue.transaction import Totals, read_totals
from federation.storage.context import StorageContext
from federation.storage.contract import Progress
from federation.storage.reports import VerifyReport
from federation.storage.upkeep.scrub import Scrubber, verify_slice

_LISTED_MAX = 100
_EVERYTHING_MS = 2**62


def verify(
    data_dir: Path, settings: model.StorageConfig, progress: Progress, *, repair: bool
) -> VerifyReport:
    """Verify every blob and the catalogue itself. repair: quarantine damaged blobs.

    Safe while nodes serve the directory. Raises StorageRefused.
    """
    return asyncio.run(_verify(data_dir, settings, progress, repair=repair))


async def _verify(
    data_dir: Path, settings: model.StorageConfig, progress: Progress, *, repair: bool
) -> VerifyReport:
    report = VerifyReport(repaired=repair)
    async with joined(data_dir, settings) as storage:
        core = storage.core
        # An operator asked, so whatever is wrong is believed, however much it is.
        core.directory.volume.breaker.lift()
        report.catalogue_problems = await core.reads.run(_check_catalogue, core)
        total = (await core.reads.run(lambda: read_totals(core.reads.connection()))).blobs
        scrubber = Scrubber(core)
        after: bytes | None = b""
        while after is not None:
            found = await core.reads.run(verify_slice, core, after, _EVERYTHING_MS)
            report.blobs += found.blobs
            report.size_bytes += found.size_bytes
            report.damaged_blobs += len(found.bad)
            report.unknown_blobs += found.unknown
            for row, damage in found.bad:
                if len(report.damaged) < _LISTED_MAX:
                    digest = catalogue.digest_of_key(row.key, row.size_bytes)
                    report.damaged.append(f"{digest}: {damage}")
            if not repair:
                found.bad.clear()
            await scrubber.note(found)
            progress(report.blobs, max(total, report.blobs))
            after = found.last_key
    return report


def _check_log(connection: apsw.Connection, totals: Totals) -> list[str]:
    """Return what contradicts the end of the change log and the clock of stamps."""
    last: Any = connection.execute(
        "SELECT seq, total FROM log ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    if last is not None and last != (totals.seq, totals.logged_bytes):
        return [f"totals {totals} differ from the change log's last row {last}"]
    newest: Any = connection.execute(
        "SELECT (SELECT ifnull(max(seq), 0) FROM blob), (SELECT ifnull(max(seq), 0) FROM entry), "
        "(SELECT ifnull(max(cursor), 0) FROM peer), (SELECT ifnull(max(ticks), 0) FROM entry)"
    ).fetchone()
    names = ("a blob's row", "an entry's row", "a peer's cursor")
    problems = [
        f"{name} is {seq}, beyond the change log's end {totals.seq}"
        for name, seq in zip(names, newest, strict=False)
        if seq > totals.seq
    ]
    if newest[3] > totals.ticks:
        problems.append(f"an entry's stamp {newest[3]} is later than the clock's {totals.ticks}")
    return problems


def _check_catalogue(core: StorageContext) -> list[str]:
    """Return the problems that SQLite finds, and differences between totals and rows."""
    connection = core.reads.connection()
    problems: list[str] = []
    try:
        # One snapshot: totals and rows must be of the same moment.
        with connection:
            for (line,) in connection.execute("PRAGMA integrity_check(20)"):
                if line != "ok":
                    problems.append(str(line))
            totals = read_totals(connection)
            counted: Any = connection.execute(
                "SELECT (SELECT count(*) FROM blob), (SELECT count(*) FROM entry), "
                "(SELECT ifnull(sum(size), 0) FROM blob) + (SELECT ifnull(sum("
                "length(value) + length(CAST(label AS BLOB))), 0) FROM entry), "
                "(SELECT ifnull(sum((size + 4095) / 4096 * 4096), 0) FROM blob WHERE NOT inline)"
            ).fetchone()
            stated = (totals.blobs, totals.entries, totals.size_bytes, totals.files_bytes)
            if counted != stated:
                problems.append(f"totals {totals} differ from the rows {counted}")
            problems += _check_log(connection, totals)
    except UNREADABLE as error:
        problems.append(f"{type(error).__name__}: {error}")
    return problems
