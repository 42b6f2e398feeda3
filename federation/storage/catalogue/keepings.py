"""Queries and updates of keepings: what keeps one entry, with all that it names, for one pin.

A blob that several entries name is kept by one of them (blob.kept). When that one ends, nothing is
given back before all others were looked at again, and took over what they need. So a keeping costs
one row, whatever it keeps, and eviction finds in the row itself that a blob is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import apsw

from federation.core.pins import KeptState
from federation.storage.catalogue import footprint
from federation.storage.catalogue.transaction import Transaction, get_meta, set_meta

_BYTES = "kept_bytes"  # name in the table meta: of the quota, of all keepings
_RETRY_FIRST_MS, _RETRY_MAX_MS = 60_000, 3_600_000
_LEFT_OUT_MAX_MS = 86_400_000
_RETURN_MS = 86_400_000  # after an entry was replaced, what its former value named is kept so long
_IS_ENDED = "NOT EXISTS (SELECT 1 FROM keeping WHERE id = blob.kept AND pin IS NOT NULL)"
_LOOK = (
    f"SELECT key, {footprint.COST}, kept, kept > 0 AND {_IS_ENDED} "  # noqa: S608 - constants
    "FROM carray(?) AS wanted CROSS JOIN blob ON key = wanted.value"
)
_SUMS = (
    "SELECT ifnull(sum(entry > 0 AND state < 2), 0), ifnull(sum(blobs), 0), ifnull(sum(bytes), 0), "
    "ifnull(sum(state = 1), 0), ifnull(sum(missing), 0), ifnull(sum(state = 2), 0) "
    "FROM keeping WHERE pin"
)


class Keeping(NamedTuple):
    """A row of the table keeping that belongs to a pin."""

    id: int
    pin_id: int
    entry_id: int  # 0: it keeps a blob
    seq: int  # of the entry's value
    tries: int
    state: int = KeptState.INCOMPLETE


class KeptNow(NamedTuple):
    """What became of some blobs; does_fit False: pins would take too much, nothing was kept."""

    does_fit: bool
    missing: list[bytes]


class KeptTotal(NamedTuple):
    """The sums over keepings."""

    entries: int = 0
    blobs: int = 0
    size_bytes: int = 0
    incomplete: int = 0
    missing: int = 0
    left_out: int = 0


def total_bytes(connection: apsw.Connection) -> int:
    """Return how much of the quota is kept, with what is not given back yet."""
    return int(get_meta(connection, _BYTES) or 0)


def add(transaction: Transaction, keeping_id: int, size_bytes: int, blobs: int) -> None:
    """Count what a keeping keeps more, or less. The sum over all of them changes by as much."""
    connection = transaction.connection
    row: Any = connection.execute(
        "SELECT bytes FROM keeping WHERE id = ?", (keeping_id,)
    ).fetchone()
    if row is None or not (size_bytes or blobs):
        return
    now_bytes = max(0, row[0] + size_bytes)  # less was counted of an entry that has grown since
    connection.execute(
        "UPDATE keeping SET bytes = ?2, blobs = max(0, blobs + ?3) WHERE id = ?1",
        (keeping_id, now_bytes, blobs),
    )
    add_to_total(transaction, now_bytes - row[0])


def add_to_total(transaction: Transaction, size_bytes: int) -> None:
    """Change the sum over all keepings."""
    set_meta(transaction, _BYTES, max(0, total_bytes(transaction.connection) + size_bytes))


def begin(transaction: Transaction, pin_id: int, entry_id: int) -> Keeping | None:
    """Return what keeps the present value of an entry for a pin; None: one of the two is gone.

    An earlier value's keeping ends. entry_id 0: of a pinned blob.
    """
    connection = transaction.connection
    row: Any = (0,)
    if entry_id:
        row = connection.execute("SELECT seq FROM entry WHERE id = ?", (entry_id,)).fetchone()
    if not _is_in_force(connection, pin_id):  # it was removed while entries were looked at for it
        row = None
    rows: Any = connection.execute(
        "SELECT id, seq, tries FROM keeping WHERE pin = ? AND entry = ?", (pin_id, entry_id)
    ).fetchall()
    same = [Keeping(n, pin_id, entry_id, seq, tries) for n, seq, tries in rows if (seq,) == row]
    # Not given back at once: the entry may get its former value back, and clients may still use it.
    earlier = [keeping_id for keeping_id, seq, _ in rows if (seq,) != row]
    _end(transaction, earlier, due_ms=transaction.now_ms + _RETURN_MS)
    if row is None or same:
        return same[0] if same else None
    return Keeping(new_row(connection, pin_id, entry_id, row[0]), pin_id, entry_id, row[0], 0)


def new_row(connection: apsw.Connection, pin_id: int | None, entry_id: int, seq: int) -> int:
    """Insert a keeping that keeps nothing yet, and return its id; pin_id None: it has ended."""
    connection.execute(
        "INSERT INTO keeping (pin, entry, seq) VALUES (?, ?, ?)", (pin_id, entry_id, seq)
    )
    return connection.last_insert_rowid()


def _is_in_force(connection: apsw.Connection, pin_id: int) -> bool:
    row = connection.execute("SELECT 1 FROM pin WHERE id = ? AND removed = 0", (pin_id,)).fetchone()
    return row is not None


def _has_pin(connection: apsw.Connection, keeping_id: int) -> bool:
    row = connection.execute(
        "SELECT 1 FROM keeping WHERE id = ? AND pin IS NOT NULL", (keeping_id,)
    ).fetchone()
    return row is not None


def known(connection: apsw.Connection, pin_id: int, entry_id: int) -> Keeping | None:
    """Return what keeps the present value of an entry, which is kept itself; None: nothing does."""
    row: Any = connection.execute(
        "SELECT keeping.id, pin, entry, keeping.seq, tries, state "
        "FROM keeping JOIN entry ON entry.id = keeping.entry AND entry.seq = keeping.seq "
        "WHERE pin = ? AND entry = ? AND state < 2 "
        "AND EXISTS (SELECT 1 FROM keeping AS k WHERE k.id = entry.kept AND k.pin IS NOT NULL)",
        (pin_id, entry_id),
    ).fetchone()
    return None if row is None else Keeping._make(row)


def keep_entry(transaction: Transaction, keeping: Keeping, max_bytes: int) -> bool:
    """Keep the entry itself; return False if pins would take more than max_bytes."""
    connection = transaction.connection
    row: Any = connection.execute(
        f"SELECT kept, {footprint.ENTRY_SIZE}, "  # noqa: S608 - constants
        "EXISTS (SELECT 1 FROM keeping WHERE id = entry.kept AND pin IS NOT NULL) "
        "FROM entry WHERE id = ?",
        (keeping.entry_id,),
    ).fetchone()
    # Gone, or another pin keeps it already: one owner is enough.
    if row is None or row[2]:
        return True
    kept, size_bytes, _ = row
    cost = footprint.cost_of_entry(size_bytes)
    if not kept and total_bytes(connection) + cost > max_bytes:
        return False
    if kept:
        add(transaction, kept, -cost, 0)
    connection.execute("UPDATE entry SET kept = ? WHERE id = ?", (keeping.id, keeping.entry_id))
    add(transaction, keeping.id, cost, 0)
    return True


def look(connection: apsw.Connection, keys: Collection[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return which of these blobs are here and not kept, and which are missing."""
    rows: Any = connection.execute(_LOOK, (apsw.carray(tuple(keys)),)).fetchall()
    found = {key: not kept or is_ended for key, _, kept, is_ended in rows}
    return [key for key, is_free in found.items() if is_free], [k for k in keys if k not in found]


def keep(
    transaction: Transaction, keeping_id: int, keys: Collection[bytes], max_bytes: int
) -> KeptNow:
    """Keep blobs that nothing keeps, if pins then take at most max_bytes.

    A mark by eviction is removed, as by a use. Keeps nothing if the pin was removed meanwhile.
    """
    connection = transaction.connection
    rows: Any = connection.execute(_LOOK, (apsw.carray(tuple(keys)),)).fetchall()
    free = [(key, cost, kept) for key, cost, kept, is_ended in rows if not kept or is_ended]
    # What an ended keeping has is counted already; it only changes owner.
    added = sum(cost for _, cost, kept in free if not kept)
    held = {row[0] for row in rows}
    missing = [key for key in keys if key not in held]
    # The pin was removed while closures were walked for it.
    if not _has_pin(connection, keeping_id):
        return KeptNow(True, missing)
    if added and total_bytes(connection) + added > max_bytes:
        return KeptNow(False, missing)
    connection.executemany(
        "UPDATE blob SET kept = ?2, marked = 0 WHERE key = ?1",
        [(key, keeping_id) for key, _, _ in free],
    )
    for _, cost, kept in free:
        if kept:
            add(transaction, kept, -cost, -1)
    add(transaction, keeping_id, sum(cost for _, cost, _ in free), len(free))
    return KeptNow(True, missing)


def settle(transaction: Transaction, keeping: Keeping, missing: int, *, is_whole: bool) -> None:
    """Note the result of a walk; what is incomplete is due again, ever more rarely."""
    wait_ms = min(_RETRY_MAX_MS, _RETRY_FIRST_MS << min(keeping.tries, 10))
    state = KeptState.WHOLE if is_whole else KeptState.INCOMPLETE
    transaction.connection.execute(
        "UPDATE keeping SET state = ?2, missing = ?3, due = ?4, "
        "tries = CASE WHEN missing = ?3 THEN tries + 1 ELSE 0 END "
        "WHERE id = ?1 AND pin IS NOT NULL",
        (keeping.id, state, missing, transaction.now_ms + wait_ms),
    )


def leave_out(transaction: Transaction, keeping: Keeping) -> None:
    """Note that a pin leaves an entry out; what was kept of that already is given back."""
    connection = transaction.connection
    due_ms = transaction.now_ms + min(_LEFT_OUT_MAX_MS, _RETRY_MAX_MS << min(keeping.tries, 10))
    row: Any = connection.execute(
        "SELECT bytes FROM keeping WHERE id = ? AND pin IS NOT NULL", (keeping.id,)
    ).fetchone()
    if row is None:  # the pin was removed meanwhile
        return
    # What it keeps goes with a keeping that has ended, and a new one records the refusal.
    if row[0]:
        _end(transaction, [keeping.id], due_ms=0)
        anew = new_row(connection, keeping.pin_id, keeping.entry_id, keeping.seq)
        keeping = keeping._replace(id=anew)
    connection.execute(
        "UPDATE keeping SET state = ?2, missing = 0, tries = ?3, due = ?4 WHERE id = ?1",
        (keeping.id, KeptState.LEFT_OUT, keeping.tries + 1, due_ms),
    )


def put_off(transaction: Transaction, waiting: Collection[Keeping]) -> None:
    """Let what was left out wait, as there is no room for it."""
    transaction.connection.executemany(
        "UPDATE keeping SET due = ?2 WHERE id = ?1",
        [(each.id, transaction.now_ms + _RETRY_MAX_MS) for each in waiting],
    )


def _end(transaction: Transaction, keeping_ids: Sequence[int], due_ms: int) -> None:
    transaction.connection.executemany(
        "UPDATE keeping SET pin = NULL, due = ?2 WHERE id = ?1",
        [(keeping_id, due_ms) for keeping_id in keeping_ids],
    )


def end_all(transaction: Transaction, pin_id: int) -> None:
    """End all that a pin keeps, to be given back at once."""
    transaction.connection.execute(
        "UPDATE keeping SET pin = NULL, due = 0 WHERE pin = ?", (pin_id,)
    )


def blob_gone(transaction: Transaction, keeping_id: int, cost_bytes: int) -> None:
    """Note that a kept blob was purged, or set aside as damaged."""
    add(transaction, keeping_id, -cost_bytes, -1)
    transaction.connection.execute(
        "UPDATE keeping SET state = ?2, missing = missing + 1, due = 0 "
        "WHERE id = ?1 AND pin IS NOT NULL",
        (keeping_id, KeptState.INCOMPLETE),
    )


def entry_gone(transaction: Transaction, keeping_id: int, cost_bytes: int) -> None:
    """Note that a kept entry was purged."""
    add(transaction, keeping_id, -cost_bytes, 0)


def end_of_entries(transaction: Transaction, entry_ids: Collection[int]) -> None:
    """Let what entries named that are gone be kept for them no longer, by any pin.

    Another entry may get the row id of one that is gone.
    """
    transaction.connection.executemany(
        "UPDATE keeping SET pin = NULL, due = ?2 WHERE entry = ?1 AND pin IS NOT NULL",
        [(entry_id, transaction.now_ms + _RETURN_MS) for entry_id in entry_ids],
    )


def keeps_blob(connection: apsw.Connection, key: bytes) -> bool:
    """Return whether a pin keeps a blob."""
    return _keeps(connection, "SELECT kept FROM blob WHERE key = ?", key)


def keeps_entry(connection: apsw.Connection, row_id: int) -> bool:
    """Return whether a pin keeps an entry."""
    return _keeps(connection, "SELECT kept FROM entry WHERE id = ?", row_id)


def _keeps(connection: apsw.Connection, query: str, value: bytes | int) -> bool:
    row: Any = connection.execute(
        f"SELECT 1 FROM keeping WHERE id = ({query}) AND pin IS NOT NULL",  # noqa: S608 - constants
        (value,),
    ).fetchone()
    return row is not None


def due(connection: apsw.Connection, now_ms: int, limit: int) -> list[Keeping]:
    """Return what is incomplete or left out, and is to be tried again now."""
    return _of_pins(connection, "due <= ? AND state > 0", "due", (now_ms, limit))


def after(connection: apsw.Connection, keeping_id: int, limit: int) -> list[Keeping]:
    """Return what pins keep, of ids above this one and in their order; not what they leave out."""
    return _of_pins(connection, "id > ? AND state < 2", "id", (keeping_id, limit))


def _of_pins(
    connection: apsw.Connection, where: str, order: str, values: tuple[int, int]
) -> list[Keeping]:
    rows: Any = connection.execute(
        "SELECT id, pin, entry, seq, tries, state FROM keeping "  # noqa: S608 - constants
        f"WHERE {where} AND pin IS NOT NULL ORDER BY {order} LIMIT ?",
        values,
    ).fetchall()
    return [Keeping._make(row) for row in rows]


def totals(connection: apsw.Connection, pin_id: int | None = None) -> KeptTotal:
    """Return the sums over the keepings of one pin, or of all."""
    if pin_id is None:
        row: Any = connection.execute(f"{_SUMS} IS NOT NULL").fetchone()
    else:
        row = connection.execute(f"{_SUMS} = ?", (pin_id,)).fetchone()
    return KeptTotal._make(row)
