"""Gives new stamps to entries that a wrong clock has dated too far ahead, once it is right again.

Peers refuse such an entry until its date has come. The new stamp must be later than every stamp
seen here: a value that arrived while the wrong stamp counted was dropped, and its sender does not
offer it again. So each entry gets the stamp of a push made now, and a row in the change log.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import structlog

from federation.core.clock import utc_text
from federation.core.provenance import Provenance, Source
from federation.storage.catalogue import purges
from federation.storage.catalogue.hlc import next_ticks, ticks_at
from federation.storage.catalogue.transaction import Transaction, read_totals
from federation.storage.context import StorageContext
from federation.storage.upkeep import dates_ahead
from federation.storage.upkeep.dates_ahead import DatesAhead

_ROWS_READ = 5_000
_ROWS_DATED = 200

_log = structlog.get_logger(__name__)


class Redating:
    """Corrects stamps that are too far ahead. Used by the holder of the maintenance lock."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._drift_s = core.settings.clock_drift
        self._dates = DatesAhead(self._drift_s)

    def __repr__(self) -> str:
        return f"<Redating, {self._dates!r}>"

    async def check(self) -> int:
        """Redate entries if stamps have been too far ahead for STEADY_S; return how many."""
        clock = self._core.clock
        ahead_s = await self._core.pool.run(self._ahead_s)
        self._core.metrics.dates_ahead.set(max(0.0, ahead_s))
        if self._dates.found(ahead_s, clock.monotonic_s()):
            _log.warning(
                "dates_ahead",
                ahead_s=round(ahead_s),
                clock=utc_text(clock.wall_s()),
                text="this machine's clock is wrong, or was wrong when entries were stamped; if it "
                "is not corrected, they get new stamps",
                in_s=dates_ahead.STEADY_S,
            )
        if not self._dates.are_steady(clock.wall_s(), clock.monotonic_s()):
            return 0
        count = await self._redate()
        # The warning comes again, should stamps be found ahead once more.
        self._dates.forget()
        self._core.metrics.redated.inc(count)
        _log.warning("entries_redated", count=count, ahead_s=round(ahead_s))
        return count

    def _ahead_s(self) -> float:
        ticks = read_totals(self._core.pool.connection()).ticks
        return (ticks >> 16) / 1000 - self._core.clock.wall_s()

    async def _redate(self) -> int:
        first_seq = await self._core.writer.submit(lambda tx: tx.totals.seq)
        # Before the entries, so that a value that was pushed after a purge stays later than that.
        while await self._core.writer.submit(purges.redate) == purges.REDATED_AT_ONCE:
            continue
        after, count = 0, 0
        newest = await self._core.pool.query(purges.newest_ticks)
        while True:
            far, newest_here, last = await self._core.pool.run(self._read, after)
            newest = max(newest, newest_here)
            for at in range(0, len(far), _ROWS_DATED):
                ids = far[at : at + _ROWS_DATED]
                count += await self._core.writer.submit(partial(redate, ids=ids))
            if last == after:
                break
            after = last
        await self._core.writer.submit(lambda tx: _settle(tx, first_seq, newest))
        return count

    def _read(self, after: int) -> tuple[list[int], int, int]:
        """Return row ids that are too far ahead, the others' greatest ticks, and the last id."""
        latest = ticks_at(self._core.clock.wall_s() + self._drift_s)
        rows: Any = self._core.pool.connection().execute(
            "SELECT id, ticks FROM entry WHERE id > ? ORDER BY id LIMIT ?", (after, _ROWS_READ)
        )
        far, newest = [], 0
        for row_id, ticks in rows:
            after = row_id
            if ticks > latest:
                far.append(row_id)
            else:
                newest = max(newest, ticks)
        return far, newest, after


def redate(transaction: Transaction, ids: list[int]) -> int:
    """Give new stamps to those of these entries that are still too far ahead; return how many."""
    totals, wall_s, drift_s = transaction.totals, transaction.wall_s, transaction.drift_s
    count = 0
    transaction.changes_any_entry = True
    for row_id in ids:
        row: Any = transaction.connection.execute(
            "SELECT kind, instance, name, length(value) + length(CAST(label AS BLOB)), source, "
            "origin FROM entry WHERE id = ? AND ticks > ?",
            (row_id, ticks_at(wall_s + drift_s)),
        ).fetchone()
        # It was pushed anew while others were redated.
        if row is None:
            continue
        kind, instance, name, size, source, origin = row
        seq = transaction.next_seq()
        ticks = next_ticks(totals.ticks, wall_s, drift_s)
        totals.ticks = max(totals.ticks, ticks)
        transaction.connection.execute(
            "UPDATE entry SET ticks = ?, node = ?, seq = ? WHERE id = ?",
            (ticks, transaction.node_id, seq, row_id),
        )
        # Without via: the node that sent it here may not have been able to send it elsewhere.
        provenance = Provenance(Source(source), origin=origin)
        transaction.log(seq, kind, instance, name, size, provenance)
        count += 1
    return count


def _settle(transaction: Transaction, first_seq: int, newest: int) -> None:
    """Set the clock of stamps back to the greatest stamp in use.

    newest: the greatest ticks among entries that were not redated; first_seq: the end of the change
    log before the redating.
    """
    totals = transaction.totals
    since: Any = transaction.connection.execute(
        "SELECT ifnull(max(entry.ticks), 0) FROM log JOIN entry USING (kind, instance, name) "
        "WHERE log.seq > ?",
        (first_seq,),
    ).fetchone()
    settled = next_ticks(totals.ticks, transaction.wall_s, transaction.drift_s)
    # Only back, and never behind a stamp that a value has: the next one has to be later than all.
    totals.ticks = min(totals.ticks, max(newest, since[0], settled))
