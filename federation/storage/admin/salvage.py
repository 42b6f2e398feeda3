"""Reads what can be read from a damaged catalogue.

Each table is read from its beginning up to the damage, and from its end back to the damage, so that
one bad page costs only the rows on it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import apsw

from federation.core.digest import Digest
from federation.core.errors import InvalidRequest
from federation.core.index import NO_STAMP, Entry, EntryKey, EntryKind, Stamp
from federation.core.pins import Pin, PinTarget, check_target
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.purges import Purge, Purgeable
from federation.core.replication_log import Lane, PeerRecord
from federation.storage.catalogue.blobs import digest_of_key
from federation.storage.catalogue.hlc import is_too_far, ticks_at
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.catalogue.transaction import BLOB, get_meta

_INLINE = (
    "SELECT small.seq, log.name, log.size, small.data FROM small JOIN log USING (seq) "
    "ORDER BY small.seq"
)
_BY_BLOB = (
    "SELECT small.seq, blob.key, blob.size, small.data FROM blob JOIN small "
    "ON blob.inline AND small.seq = blob.seq ORDER BY blob.key"
)
_ENTRIES = (
    "SELECT id, {}, kind, instance, name, value, label, stored, expires, source, origin, {} "
    "FROM entry ORDER BY id"
)
# Read from the table and from its index: without instance names, all entries would be lost.
_INSTANCES = (
    "SELECT id, name FROM instance NOT INDEXED",
    "SELECT id, name FROM instance INDEXED BY sqlite_autoindex_instance_1",
)
_USED = ("used", "accessed")  # the column of the last use: from schema version 3 on, and before
_STAMPS = ("ticks, node", "0, ''")  # the columns of stamps: from schema version 2 on, and before
# The first column tells rows apart that are met from both ends.
_PEERS = "SELECT name || ' ' || lane, name, lane, node_id, pins_pulled FROM peer ORDER BY name"
_PURGES = (
    "SELECT seq, kind, instance, name, size, label, by, at, allowed, ticks, node, used FROM purge "
    "ORDER BY seq"
)
_PINS = (
    "SELECT seq, target, label, until, note, by, at, removed, ticks, node FROM pin "
    "WHERE seq IS NOT NULL ORDER BY seq"
)
_STORE_END_MS = 2**45  # a thousand years; store time counts from the creation of a catalogue
_ANEW = "the catalogue was rebuilt"
_TIME_END_S = 253_402_300_800  # the year 10000: the end of protobuf's Timestamp
_NO_ROW = (ValueError, TypeError)  # raised for damage that can still be read as a row

_T = TypeVar("_T")


def _only(kind: type[_T], value: object) -> _T:
    """Return a value if it has this type. Raises TypeError.

    Damage can turn a blob into a number, and bytes(5) is five zeros: a conversion would hide it.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.40} is not of type {kind.__name__}")
    return value


def _time_s(value: object) -> float:
    """Return a wall clock time (s) if the value can be one. Raises ValueError."""
    if isinstance(value, int | float) and 0 <= value < _TIME_END_S:
        return float(value)
    raise ValueError(f"{value!r:.40} is not a time")


def _store_ms(value: object) -> int:
    """Return a store time (ms) if the value can be one, else 1."""
    return value if isinstance(value, int) and 1 <= value < _STORE_END_MS else 1


class Salvage:
    """Rows of a catalogue that may be damaged, each at most once."""

    def __init__(self, path: Path) -> None:
        self._problems = 0
        try:
            self._connection: apsw.Connection | None = apsw.Connection(str(path))
        except UNREADABLE:
            self._connection = None
            self._problems += 1

    def inline(self) -> Iterator[tuple[Digest, bytes]]:
        """Yield inline blobs; their bytes are not verified."""
        # By both tables that name them: each may have its own damaged pages.
        for query in (_BY_BLOB, _INLINE):
            for _, key, size, data in self._rows(query):
                try:
                    digest = digest_of_key(_only(bytes, key), _only(int, size))
                    content = _only(bytes, data)
                except (*_NO_ROW, LookupError):
                    continue
                yield digest, content

    def entries(self, now_s: float) -> Iterator[tuple[Entry, int]]:
        """Yield index entries with their last use (store ms); now_s is wall clock time."""
        names = self._instances()
        query = _ENTRIES.format(self._used_column("entry"), self._stamps())
        for _, used, kind, instance, name, *values in self._rows(query):
            value, label, stored, expires, source, origin, ticks, node = values
            try:
                named = _only(str, names.get(instance, instance))
                key = EntryKey(EntryKind(kind), named, _only(bytes, name))
                stamp = Stamp(_only(int, ticks), _only(str, node))
                entry = Entry(
                    key,
                    _only(bytes, value),
                    _only(str, label),
                    _time_s(stored),
                    None if expires is None else _time_s(expires),
                    Source(source),
                    _only(str, origin),
                    stamp,
                )
            except _NO_ROW:
                continue
            yield self._stamped(entry, now_s), _store_ms(used)

    def _instances(self) -> dict[int, str]:
        """Return instance names by id; empty for an older schema, whose rows contain names."""
        found: dict[int, str] = {}
        for query in _INSTANCES:
            for number, name in self._asked(query) or ():
                if isinstance(number, int) and isinstance(name, str):
                    found.setdefault(number, name)
        return found

    def _used_column(self, table: str) -> str:
        return _USED[self._asked(f"SELECT used FROM {table} LIMIT 0") is None]  # noqa: S608

    def used_ms(self, key: bytes) -> int:
        """Return when the blob with this key was last used (store ms); 1 if that is lost."""
        column = self._used_column("blob")
        found = self._asked(f"SELECT {column} FROM blob WHERE key = ?", (key,))  # noqa: S608
        return _store_ms(found[0][0]) if found else 1

    def _stamps(self) -> str:
        """Return the columns that hold entries' stamps."""
        return _STAMPS[self._asked("SELECT ticks FROM entry LIMIT 0") is None]

    def _stamped(self, entry: Entry, now_s: float) -> Entry:
        """Return the entry; without a valid stamp, it gets one for the time it was stored."""
        if entry.source is Source.UPSTREAM:
            return entry._replace(stamp=NO_STAMP)
        # A damaged stamp in the future would win over everything until its date came.
        if entry.stamp != NO_STAMP and not is_too_far(entry.stamp, now_s):
            return entry
        # As when stamps were introduced: whatever was stored here counts as given here.
        node = str(self.meta("node_id") or "")
        return entry._replace(stamp=Stamp(ticks_at(min(entry.stored_at_s, now_s)), node))

    def last_stamp(self, now_s: float) -> Stamp:
        """Return the greatest stamp that the node gave or received; NO_STAMP if it is lost."""
        found = self._asked("SELECT ticks FROM totals")
        try:
            stamp = Stamp(_only(int, found[0][0])) if found else NO_STAMP
        except _NO_ROW:
            return NO_STAMP
        return NO_STAMP if is_too_far(stamp, now_s) else stamp

    def provenance(self, key: bytes) -> Provenance:
        """Return who sent the blob with this key; a client if that cannot be read."""
        found = self._asked(
            "SELECT source, via, origin FROM log WHERE seq = (SELECT seq FROM blob WHERE key = ?)",
            (key,),
        )
        try:
            for source, via, origin in found or ():
                passed = tuple(_only(str, via).split(",")) if via else ()
                return Provenance(Source(source), passed, _only(str, origin))
        except _NO_ROW:
            return FROM_CLIENT
        return FROM_CLIENT

    def peers(self) -> Iterator[PeerRecord]:
        """Yield a new record for each lane of a peer: nothing of the new log is acknowledged."""
        if self._asked("SELECT name FROM peer LIMIT 0") is None:
            return
        for _, name, lane, node_id, pins_pulled in self._rows(_PEERS):
            try:
                known_as = (_only(str, name), Lane(lane))
                record = PeerRecord(*known_as, reason=_ANEW, node_id=_only(str, node_id))
            except _NO_ROW:
                continue
            yield record._replace(pins_pulled=bool(pins_pulled))

    def purges(self, now_s: float) -> Iterator[tuple[Purge, int]]:
        """Yield records of purges with their last use (store ms); now_s is wall clock time."""
        names = self._instances()
        if self._asked("SELECT name FROM purge LIMIT 0") is None:
            return
        for (
            _,
            kind,
            instance,
            name,
            size,
            label,
            by,
            at_s,
            allowed,
            ticks,
            node,
            used,
        ) in self._rows(_PURGES):
            try:
                thing: Purgeable
                if kind == BLOB:
                    thing = digest_of_key(_only(bytes, name), _only(int, size))
                else:
                    named = _only(str, "" if not instance else names.get(instance))
                    thing = EntryKey(EntryKind(kind), named, _only(bytes, name))
                stamp = Stamp(_only(int, ticks), _only(str, node))
                people = (_only(str, label), _only(str, by), _time_s(at_s))
            except (*_NO_ROW, LookupError):
                continue
            if not is_too_far(stamp, now_s):
                yield Purge(thing, stamp, *people, bool(allowed)), _store_ms(used)

    def pins(self, now_s: float) -> Iterator[Pin]:
        """Yield the records of pins; now_s is wall clock time."""
        if self._asked("SELECT seq FROM pin LIMIT 0") is None:
            return
        for _, target, label, until_s, note, by, at_s, removed, ticks, node in self._rows(_PINS):
            try:
                named = check_target(PinTarget.parse(_only(str, target)))
                people = _only(str, label), _only(str, note), _only(str, by)
                stamp = Stamp(_only(int, ticks), _only(str, node))
                ends_s = None if until_s is None else _time_s(until_s)
                pin = Pin(
                    named, stamp, people[0], ends_s, *people[1:], _time_s(at_s), bool(removed)
                )
            except (*_NO_ROW, LookupError, InvalidRequest):
                continue
            if not is_too_far(stamp, now_s):
                yield pin

    def was_kept(self, key: bytes) -> bool:
        """Return whether a pin kept the blob with this key."""
        found = self._asked("SELECT kept FROM blob WHERE key = ?", (key,))
        return bool(found and found[0][0])

    def _asked(self, query: str, bindings: tuple[bytes, ...] = ()) -> list[Any] | None:
        """Return the rows of a query, or None if it fails; a failure is not counted as damage."""
        if self._connection is None:
            return None
        try:
            return list(self._connection.execute(query, bindings))
        except UNREADABLE:
            return None

    def meta(self, name: str) -> int | str | None:
        """Return a value of the table meta; None: it is not set or cannot be read."""
        try:
            found = get_meta(self._connection, name) if self._connection else None
        except UNREADABLE:
            return None
        return found if isinstance(found, int | str) else None

    def verdict(self) -> str:
        """Return how much of the catalogue could be read, in words."""
        return "read whole" if not self._problems else "damaged, read in part"

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        if self._connection is None:
            return
        seen: set[Any] = set()
        whole = yield from self._until_damage(query, seen)
        if not whole:
            # From the other end, back to the same damaged page.
            yield from self._until_damage(f"{query} DESC", seen)

    def _until_damage(self, query: str, seen: set[Any]) -> Generator[tuple[Any, ...], None, bool]:
        assert self._connection is not None
        try:
            for row in self._connection.execute(query):
                if row[0] not in seen:
                    seen.add(row[0])
                    yield row
        except UNREADABLE:
            self._problems += 1
            return False
        return True


def salvage(path: Path) -> Salvage:
    """Open a catalogue to read what is left of it."""
    return Salvage(path)
