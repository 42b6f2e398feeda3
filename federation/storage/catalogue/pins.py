"""Queries and updates of the records of pins: federation.core.pins says what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from federation.core.errors import InvalidRequest
from federation.core.index import EntryKey, EntryKind, Stamp
from federation.core.pins import (
    BY_MAX_CHARS,
    NOTE_MAX_CHARS,
    PINS_MAX,
    REMOVED_KEEP_S,
    REMOVED_MAX,
    Pin,
    PinTarget,
)
from federation.storage.catalogue import instances
from federation.storage.catalogue.schema import of_a_row
from federation.storage.catalogue.transaction import Transaction, get_meta, set_meta
from federation.storage.pin_tables import PinnableEntry, PinRow

FOLLOWED = "pins_followed"  # in the table meta: the newest row of the change log that was looked at
_SEQ = "pin_seq"  # name in the table meta: the number of the newest change of a record
_COLUMNS = "target, label, until, note, by, at, removed, ticks, node"
_UPSERT = (
    "INSERT INTO pin (target, label, until, note, by, at, removed, ticks, node, seq) "
    "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (target) DO UPDATE SET "
    "label = ?2, until = ?3, note = ?4, by = ?5, at = ?6, removed = ?7, ticks = ?8, node = ?9, "
    "seq = ?10, scanned = CASE WHEN removed THEN 0 ELSE scanned END"
)
_ROWS = f"SELECT id, seq, scanned, {_COLUMNS} FROM pin"  # noqa: S608 - of PinRow
_FORGOTTEN = (
    "DELETE FROM pin WHERE removed = 1 AND (at < ?1 OR id IN "
    "(SELECT id FROM pin WHERE removed = 1 ORDER BY seq DESC LIMIT -1 OFFSET ?2))"
)


def live(connection: apsw.Connection, wall_s: float) -> list[PinRow]:
    """Return the records that keep something, those that are being tried, too."""
    rows: Any = connection.execute(
        f"{_ROWS} WHERE removed = 0 AND (until IS NULL OR until > ?) ORDER BY id", (wall_s,)
    ).fetchall()
    return [_row(row) for row in rows]


def are_any(connection: apsw.Connection) -> bool:
    """Return whether there is any record, or anything that a pin has kept."""
    row = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM pin) OR EXISTS (SELECT 1 FROM keeping)"
    ).fetchone()
    return row == (1,)


def get(connection: apsw.Connection, target: PinTarget) -> PinRow | None:
    """Return the record of a target, also of one that was removed."""
    row: Any = connection.execute(f"{_ROWS} WHERE target = ?", (target.name,)).fetchone()
    return None if row is None else _row(row)


def of_blob(connection: apsw.Connection, key: bytes) -> str:
    """Return what people call the target of the pin that keeps a blob; empty: none does."""
    return _label(connection, "SELECT kept FROM blob WHERE key = ?", (key,))


def of_entry(connection: apsw.Connection, key: EntryKey) -> str:
    """Return the same of an entry."""
    named = f"SELECT kept FROM entry WHERE kind = ? AND instance = {instances.ID} AND name = ?"  # noqa: S608
    return _label(connection, named, (int(key.kind), key.instance, key.name))


def _label(connection: apsw.Connection, kept: str, values: Sequence[Any]) -> str:
    row: Any = connection.execute(
        f"SELECT label FROM pin JOIN keeping ON keeping.pin = pin.id "  # noqa: S608 - constants
        f"WHERE keeping.id = ({kept})",
        values,
    ).fetchone()
    return "" if row is None else str(row[0])


def unknown_of(connection: apsw.Connection, received: Sequence[Pin]) -> list[Pin]:
    """Return those records that are newer than what is known of their targets."""
    known = ((each, get(connection, each.target)) for each in received)
    return [each for each, old in known if old is None or old.pin.stamp < each.stamp]


def target_of(connection: apsw.Connection, pin_id: int) -> PinTarget | None:
    """Return the target of a record; None: there is none."""
    row: Any = connection.execute("SELECT target FROM pin WHERE id = ?", (pin_id,)).fetchone()
    return None if row is None else _target(row)


@of_a_row
def _target(row: Sequence[Any]) -> PinTarget:
    return PinTarget.parse(row[0])


def page(connection: apsw.Connection, after: int, limit: int) -> list[tuple[int, Pin]]:
    """Return records with numbers above after, in order, each with its number."""
    rows: Any = connection.execute(
        # A trial's number is NULL, so no peer is told of it.
        f"SELECT seq, {_COLUMNS} FROM pin WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608
        (after, limit),
    ).fetchall()
    return [(row[0], _pin(row[1:])) for row in rows]


@of_a_row
def _row(row: Sequence[Any]) -> PinRow:
    pin_id, seq, scanned, *columns = row
    return PinRow(int(pin_id), seq, bool(scanned), _pin(columns))


@of_a_row
def _pin(columns: Sequence[Any]) -> Pin:
    target, label, until_s, note, by, at_s, removed, ticks, node = columns
    stamp = Stamp(ticks, node)
    return Pin(PinTarget.parse(target), stamp, label, until_s, note, by, at_s, bool(removed))


def candidates(connection: apsw.Connection, after: int, limit: int) -> list[PinnableEntry[int]]:
    """Return entries with row ids above this one, in their order."""
    rows: Any = connection.execute(
        f"SELECT id, kind, {instances.NAME}, name, label FROM entry "  # noqa: S608 - constants
        "WHERE id > ? ORDER BY id LIMIT ?",
        (after, limit),
    ).fetchall()
    return [_candidate(row) for row in rows]


def changed(connection: apsw.Connection, after: int, upto: int) -> list[PinnableEntry[int]]:
    """Return the entries that the log has rows of, with numbers above after and at most upto."""
    rows: Any = connection.execute(
        f"SELECT entry.id, entry.kind, {instances.NAME.replace('= instance', '= entry.instance')}, "  # noqa: S608
        "entry.name, entry.label FROM log JOIN entry USING (kind, instance, name) "
        "WHERE log.seq > ? AND log.seq <= ? AND log.kind > 0",
        (after, upto),
    ).fetchall()
    return [_candidate(row) for row in rows]


@of_a_row
def _candidate(row: Sequence[Any]) -> PinnableEntry[int]:
    entry_id, kind, instance, name, label = row
    return PinnableEntry(int(entry_id), EntryKey(EntryKind(kind), instance, name), label)


def store(transaction: Transaction, pin: Pin) -> None:
    """Store a record under the next number.

    What a removed pin has kept is given back soon: see keepings.end_some. Raises InvalidRequest
    beyond PINS_MAX.
    """
    connection = transaction.connection
    # A removal always fits: it takes the place of what it removes.
    if not pin.is_removed:
        _check_number(connection, pin.target)
        _follow_from_here(transaction)
    seq = int(get_meta(connection, _SEQ) or 0) + 1
    set_meta(transaction, _SEQ, seq)
    connection.execute(
        _UPSERT, (pin.target.name, *_for_people(pin), pin.is_removed, *pin.stamp, seq)
    )
    if pin.is_removed:
        connection.execute(_FORGOTTEN, (transaction.wall_s - REMOVED_KEEP_S, REMOVED_MAX))


def _follow_from_here(transaction: Transaction) -> None:
    """Begin to follow the change log, if there was no pin: older rows concern none."""
    if transaction.connection.execute("SELECT 1 FROM pin WHERE removed = 0").fetchone() is None:
        set_meta(transaction, FOLLOWED, transaction.totals.seq)


def _check_number(connection: apsw.Connection, target: PinTarget) -> None:
    row: Any = connection.execute(
        "SELECT count(*) FROM pin WHERE removed = 0 AND target <> ?", (target.name,)
    ).fetchone()
    if row[0] >= PINS_MAX:
        raise InvalidRequest(f"there are {row[0]} pins already; no more are possible")


def begin_trial(transaction: Transaction, pin: Pin) -> int:
    """Store a record that is not in force yet, beside an older one, and return its row id.

    Raises InvalidRequest beyond PINS_MAX, and if another command is trying the same target.
    """
    connection = transaction.connection
    _check_number(connection, pin.target)
    if connection.execute("SELECT 1 FROM pin WHERE target = ?", (_on_trial(pin),)).fetchone():
        raise InvalidRequest("another command is pinning the same just now")
    _follow_from_here(transaction)
    connection.execute(
        f"INSERT INTO pin ({_COLUMNS}, scanned, tried) "  # noqa: S608 - constants
        "VALUES (?, ?, ?, ?, ?, ?, 0, 0, '', 1, ?)",  # the command itself looks at all entries
        (_on_trial(pin), *_for_people(pin), transaction.now_ms),
    )
    return connection.last_insert_rowid()


def end_trial(transaction: Transaction, pin_id: int, pin: Pin) -> None:
    """Put a record in force, in the place of an older one."""
    connection = transaction.connection
    old = get(connection, pin.target)
    if old is not None:
        _drop(transaction, old.id)
    # The trial's row stays, as keepings refer to it by its id.
    connection.execute("UPDATE pin SET target = ? WHERE id = ?", (pin.target.name, pin_id))
    store(transaction, pin)


def _on_trial(pin: Pin) -> str:
    """Return a text under which both records can be there; PinTarget.parse reads it, too."""
    return f"{pin.target.name} "


def _for_people(pin: Pin) -> tuple[str, float | None, str, str, float]:
    return pin.label, pin.until_s, pin.note[:NOTE_MAX_CHARS], pin.by[:BY_MAX_CHARS], pin.at_s


def go_on_trying(transaction: Transaction, pin_id: int) -> None:
    """Note that the command still works."""
    transaction.connection.execute(
        "UPDATE pin SET tried = ? WHERE id = ?", (transaction.now_ms, pin_id)
    )


def drop_trial(transaction: Transaction, pin_id: int) -> None:
    """Remove a record that is not in force; what it has kept is given back soon."""
    if transaction.connection.execute(
        "SELECT 1 FROM pin WHERE id = ? AND seq IS NULL", (pin_id,)
    ).fetchone():
        _drop(transaction, pin_id)


def _drop(transaction: Transaction, pin_id: int) -> None:
    transaction.connection.execute("DELETE FROM pin WHERE id = ?", (pin_id,))


def set_scanned(transaction: Transaction, rows: Sequence[PinRow], *, is_scanned: bool) -> None:
    """Note that all entries were looked at for these pins, or that they have to be.

    Nothing is noted of a record that has changed since.
    """
    transaction.connection.executemany(
        "UPDATE pin SET scanned = ? WHERE id = ? AND seq IS ?",
        [(is_scanned, row.id, row.seq) for row in rows],
    )


def over(connection: apsw.Connection, wall_s: float, tried_before_ms: int) -> list[PinRow]:
    """Return the records whose date has passed, and those whose command has died."""
    rows: Any = connection.execute(
        f"{_ROWS} WHERE (removed = 0 AND until <= ?) OR (seq IS NULL AND tried < ?)",
        (wall_s, tried_before_ms),
    ).fetchall()
    return [_row(row) for row in rows]


def end_over(transaction: Transaction, wall_s: float, tried_before_ms: int) -> list[PinRow]:
    """End those that are over() now, and return them.

    One whose date has passed leaves a record, as one that was removed: with its stamp it wins over
    an older record of a peer that has not heard of that date.
    """
    found = over(transaction.connection, wall_s, tried_before_ms)
    for row in found:
        # Its command has died, and it was in force for nobody: no record has to tell of it.
        if row.is_trial:
            _drop(transaction, row.id)
        else:
            store(transaction, row.pin._replace(is_removed=True, at_s=wall_s))
    return found
