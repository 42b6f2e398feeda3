"""What keeps entries and blobs of a site for pins: see federation/storage/pin_tables.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.pins import KeptState
from federation.core.uses import Use
from federation.storage.pin_tables import (
    PUT_OFF_MS,
    RETURN_MS,
    Keeping,
    KeptNow,
    KeptTotal,
    PinnableEntry,
    left_out_for_ms,
    retry_after_ms,
)
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.entries import SiteIndex
from federation.storage.shared.catalogue.pin_records import PinWork
from federation.storage.shared.catalogue.rows import FIRST_KEPT_ERA

_AT_ONCE = 1000  # keepings, or kept rows, in one transaction
_BLOB = (0, b"", b"")  # what a keeping of a pinned blob has in place of an entry's key
_SUMS = """
SELECT pin, count(*) FILTER (WHERE kind > 0 AND state < 2), sum(blobs)::bigint, sum(bytes)::bigint,
  count(*) FILTER (WHERE state = 1), sum(missing)::bigint, count(*) FILTER (WHERE state = 2)
FROM keeping WHERE pin IS NOT NULL AND (pin = $1 OR $1 IS NULL) GROUP BY pin
"""
_CANDIDATES = """
SELECT kind, instance, name, label FROM entry WHERE (kind, instance, name) > ($1, $2, $3)
ORDER BY kind, instance, name LIMIT $4
"""
_CHANGED = """
SELECT e.kind, e.instance, e.name, e.label FROM log l
JOIN entry e ON e.kind = l.kind AND e.instance = l.instance AND e.name = l.name
WHERE l.seq > $1 AND l.seq <= $2 AND l.kind > 0
"""
_COLUMNS = "k.id, k.pin, k.kind, k.instance, k.name, k.seq, k.tries, k.state"  # as _keeping takes
_KNOWN = f"""
SELECT {_COLUMNS} FROM keeping k
JOIN entry e ON e.kind = k.kind AND e.instance = k.instance AND e.name = k.name AND e.seq = k.seq
WHERE k.pin = $1 AND k.kind = $2 AND k.instance = $3 AND k.name = $4 AND k.state < 2
  AND federation_is_kept_by(e.kept)
"""  # noqa: S608 - constants
_BEGIN = "SELECT keeping, seq, tries, fits FROM federation_begin_keeping($1, $2, $3, $4, $5, $6)"
_LOOK = "SELECT free, missing FROM federation_look_for_keeping($1)"
_KEEP = "SELECT fits, missing FROM federation_keep($1, $2, $3)"
_SETTLE = "SELECT federation_settle_keeping($1, $2, $3, $4, $5)"
_DUE = f"""
SELECT {_COLUMNS} FROM keeping k
WHERE k.due <= (SELECT now_ms FROM clock) AND k.state > 0 AND k.pin IS NOT NULL
ORDER BY k.due LIMIT $1
"""  # noqa: S608 - constants
_PUT_OFF = "SELECT federation_put_off($1, $2)"
_AFTER = f"""
SELECT {_COLUMNS} FROM keeping k
WHERE k.id > $1 AND k.state < 2 AND k.pin IS NOT NULL ORDER BY k.id LIMIT $2
"""  # noqa: S608 - constants
# All states there are, named for the index keeping_ended: it has the state first.
_IS_RETURN_DUE = """
SELECT EXISTS (SELECT FROM keeping WHERE pin IS NULL AND state = ANY ('{0, 1, 2, 3}')
  AND due <= (SELECT now_ms FROM clock))
"""
_BEGIN_RETURN = "SELECT federation_begin_return($1, $2, $3)"
_GIVE_BACK = "SELECT p_era, p_seq FROM federation_give_back_{}($1, $2, $3, $4, $5)"
_FORGET = "SELECT federation_forget_keepings($1, $2, $3)"


class SiteKeepings:
    """See Keepings. An entry is called by its key. What ends or gives back raises LeadLost, too.

    Nothing is durable when a method returns, but before whatever is later made durable.
    """

    def __init__(
        self,
        connections: DatabaseConnections,
        index: SiteIndex,
        max_bytes: Callable[[], int],
        work: PinWork,
    ) -> None:
        """max_bytes: how many bytes of the quota pins may keep now."""
        self._connections = connections
        self._index = index
        self.max_bytes = max_bytes
        self._work = work

    def __repr__(self) -> str:
        return f"<SiteKeepings over {self._connections!r}>"

    async def total_bytes(self) -> int:
        """See Keepings."""
        (total,) = await self._connections.ask_one("SELECT bytes FROM pinned")
        return int(total)

    async def totals(self, pin_id: int | None = None) -> Mapping[int, KeptTotal]:
        """See Keepings."""
        rows = await self._connections.ask(_SUMS, pin_id)
        return {found: KeptTotal(*sums) for found, *sums in rows}

    # -- entries ---------------------------------------------------------------------------

    async def candidates(self, after: EntryKey | None, limit: int) -> list[PinnableEntry[EntryKey]]:
        """See Keepings: in the order of keys."""
        rows = await self._connections.ask(_CANDIDATES, *_named(after), limit)
        return [_candidate(row) for row in rows]

    async def changed(self, after: int, upto: int) -> list[PinnableEntry[EntryKey]]:
        """See Keepings."""
        return [_candidate(row) for row in await self._connections.ask(_CHANGED, after, upto)]

    async def entry(self, entry: EntryKey) -> Entry | None:
        """See Keepings."""
        (row,) = await self._index.rows([entry], Use.PEEK)
        return row and row.entry

    # -- keeping ---------------------------------------------------------------------------

    async def known(self, pin_id: int, entry: EntryKey) -> Keeping[EntryKey] | None:
        """See Keepings."""
        rows = await self._connections.ask(_KNOWN, pin_id, *_named(entry))
        return _keeping(rows[0]) if rows else None

    async def begin(
        self, pin_id: int, entry: EntryKey | None, max_bytes: int
    ) -> tuple[Keeping[EntryKey] | None, bool]:
        """See Keepings."""
        call = (_BEGIN, pin_id, *_named(entry), max_bytes, RETURN_MS)
        keeping_id, seq, tries, does_fit = await self._connections.ask_one(*call)
        if keeping_id is None:
            return None, True
        return Keeping(keeping_id, pin_id, entry, seq, tries), does_fit

    async def look(self, keys: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """See Keepings."""
        free, missing = await self._connections.ask_one(_LOOK, arrays.keys(keys))
        return free or [], missing or []

    async def keep(
        self, keeping: Keeping[EntryKey], keys: Sequence[bytes], max_bytes: int
    ) -> KeptNow:
        """See Keepings."""
        call = (_KEEP, keeping.id, arrays.keys(keys), max_bytes)
        does_fit, missing = await self._connections.ask_one(*call)
        return KeptNow(does_fit, missing or [])

    async def settle(self, keeping: Keeping[EntryKey], missing: int, *, is_whole: bool) -> None:
        """See Keepings. Raises LeadLost if the database has crashed: the walk kept less."""
        state = KeptState.WHOLE if is_whole else KeptState.INCOMPLETE
        wait_ms = retry_after_ms(keeping.tries)
        call = (_SETTLE, keeping.id, int(state), missing, wait_ms, self._work.life)
        await self._connections.ask(*call)

    async def leave_out(self, keeping: Keeping[EntryKey]) -> None:
        """See Keepings."""
        call = "SELECT federation_leave_out($1, $2)"
        await self._connections.ask(call, keeping.id, left_out_for_ms(keeping.tries))

    async def due(self, limit: int) -> list[Keeping[EntryKey]]:
        """See Keepings."""
        return [_keeping(row) for row in await self._connections.ask(_DUE, limit)]

    async def put_off(self, waiting: Collection[Keeping[EntryKey]]) -> None:
        """See Keepings."""
        ids = arrays.numbers([each.id for each in waiting])
        await self._connections.ask(_PUT_OFF, ids, PUT_OFF_MS)

    async def after(self, keeping_id: int, limit: int) -> list[Keeping[EntryKey]]:
        """See Keepings."""
        return [_keeping(row) for row in await self._connections.ask(_AFTER, keeping_id, limit)]

    # -- giving back -----------------------------------------------------------------------

    async def end_some(self) -> bool:
        """See Keepings. Writes nothing where there is none."""
        (found,) = await self._connections.ask_one("SELECT federation_ended_pin()")
        if found is None:
            return False
        call = "SELECT federation_end_keepings($1, $2, $3)"
        await self._connections.ask(call, *self._work.rights, _AT_ONCE)
        return True

    async def is_return_due(self) -> bool:
        """See Keepings."""
        (is_due,) = await self._connections.ask_one(_IS_RETURN_DUE)
        return bool(is_due)

    async def begin_return(self) -> int:
        """See Keepings. Whoever leads next begins again, with those that this one has marked."""
        return await self._repeat(_BEGIN_RETURN)

    async def give_back(self) -> None:
        """See Keepings."""
        for things in ("blobs", "entries"):
            era, seq = FIRST_KEPT_ERA, 0
            while era is not None:
                call = (_GIVE_BACK.format(things), *self._work.rights, _AT_ONCE, era, seq)
                era, seq = await self._connections.ask_one(*call)
        await self._repeat(_FORGET)

    async def _repeat(self, statement: str) -> int:
        """Run a bounded step until it finds nothing more; return how much all have found."""
        total: int = 0
        while True:
            (found,) = await self._connections.ask_one(statement, *self._work.rights, _AT_ONCE)
            total += found
            if found < _AT_ONCE:
                return total


def _named(entry: EntryKey | None) -> tuple[int, bytes, bytes]:
    """Return the columns of a key; None: of a pinned blob, which come before those of any entry."""
    return _BLOB if entry is None else (int(entry.kind), entry.instance.encode(), entry.name)


def _candidate(row: Sequence[Any]) -> PinnableEntry[EntryKey]:
    kind, instance, name, label = row
    key = EntryKey(EntryKind(kind), instance.decode(), name)
    return PinnableEntry(key, key, label.decode())


def _keeping(row: Sequence[Any]) -> Keeping[EntryKey]:
    keeping_id, pin_id, kind, instance, name, seq, tries, state = row
    entry = EntryKey(EntryKind(kind), instance.decode(), name) if kind else None
    return Keeping(keeping_id, pin_id, entry, seq, tries, state)
