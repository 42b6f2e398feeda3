"""Queries and updates of keepings: what keeps one entry, with all that it names, for one pin.

A blob that several entries name is kept by one of them (blob.kept). When that one ends, nothing is
given back before all others were looked at again, and took over what they need. So a keeping costs
one row, whatever it keeps, and eviction finds in the row itself that a blob is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import apsw

from federation.core.pins import KeptState
from federation.storage.catalogue import footprint
from federation.storage.catalogue.transaction import Transaction, get_meta, set_meta
from federation.storage.pin_tables import (
    PUT_OFF_MS,
    RETURN_MS,
    Keeping,
    KeptNow,
    KeptTotal,
    left_out_for_ms,
    retry_after_ms,
)

_BYTES = "kept_bytes"  # name in the table meta: of the quota, of all keepings
# The pin of a keeping may have been removed, and its keepings be ended later, in small steps.
_IN_FORCE = (
    "EXISTS (SELECT 1 FROM keeping AS k JOIN pin ON pin.id = k.pin AND pin.removed = 0 "
    "WHERE k.id = {}.kept)"
)
_IS_ENDED = "NOT " + _IN_FORCE.format("blob")
_LOOK = (
    f"SELECT key, {footprint.COST}, kept, kept > 0 AND {_IS_ENDED} "  # noqa: S608 - constants
    "FROM carray(?) AS wanted CROSS JOIN blob ON key = wanted.value"
)
_SUMS = (
    "SELECT pin, ifnull(sum(entry > 0 AND state < 2), 0), ifnull(sum(blobs), 0), "
    "ifnull(sum(bytes), 0), ifnull(sum(state = 1), 0), ifnull(sum(missing), 0), "
    "ifnull(sum(state = 2), 0) FROM keeping WHERE pin {} GROUP BY pin"
)


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


def begin(transaction: Transaction, pin_id: int, entry_id: int) -> Keeping[int] | None:
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
    named = entry_id or None
    same = [Keeping(n, pin_id, named, seq, tries) for n, seq, tries in rows if (seq,) == row]
    # Not given back at once: the entry may get its former value back, and clients may still use it.
    earlier = [keeping_id for keeping_id, seq, _ in rows if (seq,) != row]
    _end(transaction, earlier, due_ms=transaction.now_ms + RETURN_MS)
    if row is None or same:
        return same[0] if same else None
    return Keeping(new_row(connection, pin_id, entry_id, row[0]), pin_id, named, row[0], 0)


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
    return _keeps(connection, "?", keeping_id)


def known(connection: apsw.Connection, pin_id: int, entry_id: int) -> Keeping[int] | None:
    """Return what keeps the present value of an entry, which is kept itself; None: nothing does."""
    row: Any = connection.execute(
        "SELECT keeping.id, keeping.pin, entry, keeping.seq, tries, state "  # noqa: S608
        "FROM keeping JOIN entry ON entry.id = keeping.entry AND entry.seq = keeping.seq "
        "WHERE keeping.pin = ? AND entry = ? AND state < 2 "
        f"AND {_IN_FORCE.format('entry')}",
        (pin_id, entry_id),
    ).fetchone()
    return None if row is None else Keeping[int]._make(row)


def keep_entry(transaction: Transaction, keeping: Keeping[int], max_bytes: int) -> bool:
    """Keep the entry itself; return False if pins would take more than max_bytes."""
    connection = transaction.connection
    row: Any = connection.execute(
        f"SELECT kept, {footprint.ENTRY_SIZE}, "  # noqa: S608 - constants
        f"{_IN_FORCE.format('entry')} FROM entry WHERE id = ?",
        (keeping.entry,),
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
    connection.execute("UPDATE entry SET kept = ? WHERE id = ?", (keeping.id, keeping.entry))
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


def settle(
    transaction: Transaction, keeping: Keeping[int], missing: int, *, is_whole: bool
) -> None:
    """Note the result of a walk; what is incomplete is due again, ever more rarely."""
    wait_ms = retry_after_ms(keeping.tries)
    state = KeptState.WHOLE if is_whole else KeptState.INCOMPLETE
    transaction.connection.execute(
        "UPDATE keeping SET state = ?2, missing = ?3, due = ?4, "
        "tries = CASE WHEN missing = ?3 THEN tries + 1 ELSE 0 END "
        "WHERE id = ?1 AND pin IS NOT NULL",
        (keeping.id, state, missing, transaction.now_ms + wait_ms),
    )


def leave_out(transaction: Transaction, keeping: Keeping[int]) -> None:
    """Note that a pin leaves an entry out; what was kept of that already is given back."""
    connection = transaction.connection
    due_ms = transaction.now_ms + left_out_for_ms(keeping.tries)
    row: Any = connection.execute(
        "SELECT bytes FROM keeping WHERE id = ? AND pin IS NOT NULL", (keeping.id,)
    ).fetchone()
    if row is None:  # the pin was removed meanwhile
        return
    # What it keeps goes with a keeping that has ended, and a new one records the refusal.
    if row[0]:
        _end(transaction, [keeping.id], due_ms=0)
        anew = new_row(connection, keeping.pin_id, keeping.entry or 0, keeping.seq)
        keeping = keeping._replace(id=anew)
    connection.execute(
        "UPDATE keeping SET state = ?2, missing = 0, tries = ?3, due = ?4 WHERE id = ?1",
        (keeping.id, KeptState.LEFT_OUT, keeping.tries + 1, due_ms),
    )


def put_off(transaction: Transaction, waiting: Collection[Keeping[int]]) -> None:
    """Let what was left out wait, as there is no room for it."""
    transaction.connection.executemany(
        "UPDATE keeping SET due = ?2 WHERE id = ?1",
        [(each.id, transaction.now_ms + PUT_OFF_MS) for each in waiting],
    )


def _end(transaction: Transaction, keeping_ids: Sequence[int], due_ms: int) -> None:
    transaction.connection.executemany(
        "UPDATE keeping SET pin = NULL, due = ?2 WHERE id = ?1",
        [(keeping_id, due_ms) for keeping_id in keeping_ids],
    )


def of_removed_pin(connection: apsw.Connection) -> int | None:
    """Return the id of a pin that is gone or removed, and has keepings still; None: there is none.

    Looks once for each pin, however many keepings it has.
    """
    row: Any = connection.execute(
        "WITH RECURSIVE one(pin) AS (SELECT min(pin) FROM keeping UNION ALL "
        "SELECT (SELECT min(pin) FROM keeping WHERE pin > one.pin) FROM one "
        "WHERE one.pin IS NOT NULL) SELECT pin FROM one WHERE pin IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM pin WHERE id = one.pin AND removed = 0) LIMIT 1"
    ).fetchone()
    return None if row is None else int(row[0])


def end_some(transaction: Transaction, limit: int) -> None:
    """End up to limit keepings of a pin that was removed, to be given back at once."""
    connection = transaction.connection
    connection.execute(
        "UPDATE keeping SET pin = NULL, due = 0 "
        "WHERE id IN (SELECT id FROM keeping WHERE pin = ? LIMIT ?)",
        (of_removed_pin(connection), limit),
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
    """End what pins keep for entries that are gone, whose row ids other entries may get."""
    transaction.connection.executemany(
        "UPDATE keeping SET pin = NULL, due = ?2 WHERE entry = ?1 AND pin IS NOT NULL",
        [(entry_id, transaction.now_ms + RETURN_MS) for entry_id in entry_ids],
    )


def keeps_blob(connection: apsw.Connection, key: bytes) -> bool:
    """Return whether a pin keeps a blob."""
    return _keeps(connection, "SELECT kept FROM blob WHERE key = ?", key)


def keeps_entry(connection: apsw.Connection, row_id: int) -> bool:
    """Return whether a pin keeps an entry."""
    return _keeps(connection, "SELECT kept FROM entry WHERE id = ?", row_id)


def _keeps(connection: apsw.Connection, query: str, value: bytes | int) -> bool:
    row: Any = connection.execute(
        "SELECT 1 FROM keeping JOIN pin ON pin.id = keeping.pin AND pin.removed = 0 "  # noqa: S608
        f"WHERE keeping.id = ({query})",
        (value,),
    ).fetchone()
    return row is not None


def due(connection: apsw.Connection, now_ms: int, limit: int) -> list[Keeping[int]]:
    """Return what is incomplete or left out, and is to be tried again now."""
    return _of_pins(connection, "due <= ? AND state > 0", "due", (now_ms, limit))


def after(connection: apsw.Connection, keeping_id: int, limit: int) -> list[Keeping[int]]:
    """Return what pins keep, of ids above this one and in their order; not what they leave out."""
    return _of_pins(connection, "id > ? AND state < 2", "id", (keeping_id, limit))


def _of_pins(
    connection: apsw.Connection, where: str, order: str, values: tuple[int, int]
) -> list[Keeping[int]]:
    rows: Any = connection.execute(
        "SELECT id, pin, entry, seq, tries, state FROM keeping "  # noqa: S608 - constants
        f"WHERE {where} AND pin IS NOT NULL ORDER BY {order} LIMIT ?",
        values,
    ).fetchall()
    return [Keeping(row[0], row[1], row[2] or None, *row[3:]) for row in rows]


def totals(connection: apsw.Connection, pin_id: int | None = None) -> dict[int, KeptTotal]:
    """Return the sums over the keepings of each pin, or of this one alone."""
    which, values = ("IS NOT NULL", ()) if pin_id is None else ("= ?", (pin_id,))
    rows: Any = connection.execute(_SUMS.format(which), values).fetchall()
    return {found: KeptTotal(*sums) for found, *sums in rows}
