"""The records of pins of a site: see federation/storage/pin_tables.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from federation.core.clock import Clock
from federation.core.errors import LeadLost, SourceUnavailable, StorageFailed
from federation.core.index import Stamp
from federation.core.pins import (
    BY_MAX_CHARS,
    NOTE_MAX_CHARS,
    PINS_MAX,
    REMOVED_KEEP_S,
    REMOVED_MAX,
    Pin,
    PinTarget,
)
from federation.storage.catalogue import hlc
from federation.storage.pin_tables import TRIED_MS, Followed, PinRow
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.connections import SOURCE, DatabaseConnections
from federation.storage.shared.catalogue.rows import Lead
from federation.storage.shared.catalogue.settings import CatalogueSettings

# As _pin takes them; _ROW: as _row does.
_COLUMNS = "p.target, p.label, p.until, p.note, p.who, p.at, p.removed, p.ticks, p.node"
_ROW = f"p.id, p.seq, p.scanned, {_COLUMNS}"
_ROWS = f"SELECT {_ROW} FROM pin p"  # noqa: S608 - constants
_IN_FORCE = "NOT p.removed AND (p.until IS NULL OR p.until > $1)"
_LIVE = f"{_ROWS} WHERE {_IN_FORCE} ORDER BY id"
_GET = f"{_ROWS} WHERE sha256(target) = sha256($1)"
_PAGE = f"SELECT seq, {_COLUMNS} FROM pin p WHERE seq > $1 ORDER BY seq LIMIT $2"  # noqa: S608
_KNOWN = """
SELECT target, ticks, node FROM pin WHERE sha256(target) IN (SELECT sha256(unnest($1)))
"""
_ARE_ANY = "SELECT EXISTS (SELECT FROM pin) OR EXISTS (SELECT FROM keeping)"
_ARE_OVER = """
SELECT EXISTS (SELECT FROM pin WHERE NOT removed AND until <= $1 OR seq IS NULL
  AND tried < (SELECT now_ms FROM clock) - $2::bigint)
"""
# One statement, and so one snapshot. Its rows of the log were committed before a note that they
# were looked at, so no crash keeps the note and loses the rows. Pins are read only where there are
# rows to compare with them, as this is asked once a second.
_FOLLOWED = f"""
SELECT s.seq, f.followed, EXISTS (SELECT FROM log WHERE log.seq = least(s.seq, f.followed) + 1),
  {_ROW}
FROM site s CROSS JOIN pinned f LEFT JOIN pin p ON s.seq > f.followed AND {_IN_FORCE} ORDER BY p.id
"""  # noqa: S608 - constants
_STORE = """
SELECT federation_store_pins(
  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
"""
_TRY = "SELECT trial, token FROM federation_try_pin($1, $2, $3, $4, $5, $6, $7, $8)"
_GO_ON = "UPDATE pin SET tried = (SELECT now_ms FROM clock) WHERE id = $1 AND seq IS NULL"
_DROP = "DELETE FROM pin WHERE id = $1 AND seq IS NULL"
_END = f"SELECT {_ROW} FROM federation_end_pins($1, $2, $3, $4, $5, $6) p"  # noqa: S608
_TARGET = "SELECT target FROM pin WHERE id = $1"
_KEPT = (PINS_MAX, REMOVED_KEEP_S, REMOVED_MAX)


@dataclass(slots=True)
class PinWork:
    """By which right pins are worked on, and since when: see federation_as_keeper in pins.sql."""

    lead: Lead | None = None  # None: this process does not keep pins
    life: UUID | None = None  # of the database

    @property
    def rights(self) -> tuple[int, UUID]:
        """The first arguments of functions that only who keeps pins may call. Raises LeadLost."""
        if self.lead is None or self.life is None:
            raise LeadLost("this process does not keep pins")
        return self.lead.term, self.life


class SitePinRecords:
    """See PinRecords. Records of the site's own are durable when a method returns."""

    def __init__(
        self,
        connections: DatabaseConnections,
        settings: CatalogueSettings,
        clock: Clock,
        work: PinWork,
    ) -> None:
        self._connections = connections
        self._drift_s = settings.drift_s
        self._clock = clock
        self._work = work
        self._trials: dict[int, UUID] = {}  # lives of the database in which they have begun

    def __repr__(self) -> str:
        return f"<SitePinRecords over {self._connections!r}>"

    # -- changes ---------------------------------------------------------------------------

    async def apply(self, received: Sequence[Pin]) -> int:
        """See PinRecords."""
        wall_s = self._clock.wall_s()
        for each in received:
            hlc.check(each.stamp, wall_s, self._drift_s)
        return sum(await self._store(received, are_own=False))

    async def store(self, pin: Pin) -> None:
        """See PinRecords."""
        await self._store([pin._replace(at_s=self._clock.wall_s())], are_own=True)

    async def remove(self, targets: Sequence[PinTarget], by: str) -> list[Pin]:
        """See PinRecords."""
        rows = [await self.get(target) for target in targets]
        there = [row.pin for row in rows if row is not None and not row.pin.is_removed]
        at_s = self._clock.wall_s()
        gone = [each._replace(by=by, is_removed=True, at_s=at_s) for each in there]
        taken = await self._store(gone, are_own=True)
        return [each for each, is_taken in zip(there, taken, strict=True) if is_taken]

    async def _store(
        self, pins: Sequence[Pin], *, are_own: bool, trial: int | None = None
    ) -> list[bool]:
        """Store records, durably; return whether each was taken. trial: see federation_store_pins.

        Raises InvalidRequest, StorageFull, StorageFailed.
        """
        if not pins:
            return []
        times = (self._clock.wall_s(), self._drift_s)
        ticks = arrays.numbers([each.stamp.ticks for each in pins])
        nodes = [None if are_own else each.stamp.node for each in pins]
        records = (*_for_people(pins), [each.is_removed for each in pins], ticks, nodes)
        call = (_STORE, *records, trial, self._trials.get(trial or 0), *times, *_KEPT)
        try:
            # A second run would find nothing to remove, or put the trial's record away as older.
            (taken,) = await self._connections.ask_one(*call, twice=not are_own)
        except SourceUnavailable as error:
            raise StorageFailed(f"it is not certain what was pinned: {error}") from error
        found: list[bool] = taken
        return found

    async def begin_trial(self, pin: Pin) -> int:
        """See PinRecords. Remembers since when what is kept for it may be lost by a crash."""
        own = pin._replace(at_s=self._clock.wall_s())
        target, *of_people = (value for (value,) in _for_people([own]))
        call = (_TRY, target + b" ", target, *of_people, PINS_MAX)
        # A second run would find the record of the first, as if another command tried the same.
        trial, life = await self._connections.ask_one(*call, twice=False)
        self._trials[trial] = life
        return int(trial)

    async def go_on_trying(self, pin_id: int) -> None:
        """See PinRecords."""
        await self._connections.ask(_GO_ON, pin_id)

    async def end_trial(self, pin_id: int, pin: Pin) -> None:
        """See PinRecords."""
        own = pin._replace(at_s=self._clock.wall_s())
        try:
            await self._store([own], are_own=True, trial=pin_id)
        except LeadLost as error:
            raise SourceUnavailable(SOURCE, str(error)) from error
        self._trials.pop(pin_id, None)

    async def drop_trial(self, pin_id: int) -> None:
        """See PinRecords."""
        self._trials.pop(pin_id, None)
        await self._connections.ask(_DROP, pin_id)

    async def end_over(self) -> list[PinRow]:
        """See PinRecords. Writes nothing where there is none. Raises LeadLost."""
        wall_s = self._clock.wall_s()
        (are_over,) = await self._connections.ask_one(_ARE_OVER, wall_s, TRIED_MS)
        if not are_over:
            return []
        bounds = (wall_s, TRIED_MS, REMOVED_KEEP_S, REMOVED_MAX)
        return [_row(row) for row in await self._connections.ask(_END, *self._work.rights, *bounds)]

    async def set_followed(self, upto: int) -> None:
        """See PinRecords. Raises LeadLost."""
        call = "SELECT federation_set_followed($1, $2, $3)"
        await self._connections.ask(call, *self._work.rights, upto)

    async def set_scanned(self, rows: Sequence[PinRow], *, is_scanned: bool) -> None:
        """See PinRecords. Raises LeadLost."""
        ids, seqs = [row.id for row in rows], [row.seq for row in rows]
        call = "SELECT federation_set_scanned($1, $2, $3, $4, $5)"
        await self._connections.ask(call, *self._work.rights, ids, seqs, is_scanned)

    # -- questions -------------------------------------------------------------------------

    async def unknown_of(self, received: Sequence[Pin]) -> list[Pin]:
        """See PinRecords."""
        targets = arrays.blobs([each.target.name.encode() for each in received])
        rows = await self._connections.ask(_KNOWN, targets)
        known = {bytes(target): Stamp(ticks, node) for target, ticks, node in rows}
        return [
            each
            for each in received
            if (stamp := known.get(each.target.name.encode())) is None or stamp < each.stamp
        ]

    async def page(self, after: int, limit: int) -> list[tuple[int, Pin]]:
        """See PinRecords."""
        rows = await self._connections.ask(_PAGE, after, limit)
        return [(seq, _pin(columns)) for seq, *columns in rows]

    async def get(self, target: PinTarget) -> PinRow | None:
        """See PinRecords."""
        rows = await self._connections.ask(_GET, target.name.encode())
        return _row(rows[0]) if rows else None

    async def are_any(self) -> bool:
        """See PinRecords."""
        (are_any,) = await self._connections.ask_one(_ARE_ANY)
        return bool(are_any)

    async def live(self) -> list[PinRow]:
        """See PinRecords."""
        rows = await self._connections.ask(_LIVE, self._clock.wall_s())
        return [_row(row) for row in rows]

    async def followed(self) -> Followed:
        """See PinRecords."""
        rows = await self._connections.ask_some(_FOLLOWED, self._clock.wall_s())
        head, followed, reaches_back, *_ = rows[0]
        at = min(head, followed)
        live = [_row(columns) for _, _, _, *columns in rows if columns[0] is not None]
        return Followed(at, head, at == head or reaches_back, live)

    async def target_of(self, pin_id: int) -> PinTarget | None:
        """See PinRecords."""
        rows = await self._connections.ask(_TARGET, pin_id)
        return PinTarget.parse(rows[0][0].decode()) if rows else None


def _for_people(pins: Sequence[Pin]) -> tuple[Any, ...]:
    """Return targets, labels, ends, notes, who pinned them, and when."""
    return (
        [each.target.name.encode() for each in pins],
        [each.label.encode() for each in pins],
        [each.until_s for each in pins],
        [each.note[:NOTE_MAX_CHARS].encode() for each in pins],
        [each.by[:BY_MAX_CHARS].encode() for each in pins],
        [each.at_s for each in pins],
    )


def _row(row: Sequence[Any]) -> PinRow:
    pin_id, seq, scanned, *columns = row
    return PinRow(pin_id, seq, scanned, _pin(columns))


def _pin(columns: Sequence[Any]) -> Pin:
    target, label, until_s, note, who, at_s, removed, ticks, node = columns
    return Pin(
        PinTarget.parse(target.decode()),
        Stamp(ticks, node),
        label.decode(),
        until_s,
        note.decode(),
        who.decode(),
        at_s,
        removed,
    )
