"""Reading what can be read from a damaged catalogue.

Each table is read from its beginning up to the damage, then from its end back to it, so that one
bad page costs the rows on it and not the rest.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import apsw

from federation.digest import Digest
from federation.storage.catalogue import digest_of_key
from federation.storage.meta import get_meta
from federation.store import Entry, EntryKey, EntryKind, Source

_INLINE = (
    "SELECT small.seq, log.name, log.size, small.data FROM small JOIN log USING (seq) "
    "ORDER BY small.seq"
)
_BY_BLOB = (
    "SELECT small.seq, blob.key, blob.size, small.data FROM blob JOIN small "
    "ON blob.inline AND small.seq = blob.seq ORDER BY blob.key"
)
_ENTRIES = (
    "SELECT id, kind, instance, name, value, label, stored, expires, source, origin "
    "FROM entry ORDER BY id"
)


class Salvage:
    """Rows of a catalogue that may be damaged, each at most once."""

    def __init__(self, path: Path) -> None:
        self._problems = 0
        try:
            self._connection: apsw.Connection | None = apsw.Connection(str(path))
        except apsw.Error:
            self._connection = None
            self._problems += 1

    def inline(self) -> Iterator[tuple[Digest, bytes]]:
        """Yield small blobs, unverified."""
        for query in (_BY_BLOB, _INLINE):
            for _, key, size, data in self._rows(query):
                try:
                    digest = digest_of_key(bytes(key), int(size))
                except (ValueError, TypeError, IndexError):
                    continue  # damage that still reads as a row
                yield digest, bytes(data)

    def entries(self) -> Iterator[Entry]:
        """Yield index entries."""
        for _, kind, instance, name, *values, source, origin in self._rows(_ENTRIES):
            value, label, stored, expires = values
            try:
                key = EntryKey(EntryKind(kind), str(instance), bytes(name))
                entry = Entry(
                    key,
                    bytes(value),
                    str(label),
                    float(stored),
                    expires,
                    Source(source),
                    str(origin),
                )
            except (ValueError, TypeError):
                continue
            yield entry

    def meta(self, name: str) -> int | str | None:
        """Return a value of the table meta, if it is set and can still be read."""
        try:
            found = get_meta(self._connection, name) if self._connection else None
        except apsw.Error:
            return None
        return found if isinstance(found, int | str) else None

    def verdict(self) -> str:
        """Say how much of it could be read."""
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
            yield from self._until_damage(f"{query} DESC", seen)

    def _until_damage(self, query: str, seen: set[Any]) -> Generator[tuple[Any, ...], None, bool]:
        assert self._connection is not None
        try:
            for row in self._connection.execute(query):
                if row[0] not in seen:
                    seen.add(row[0])
                    yield row
        except apsw.Error:
            self._problems += 1
            return False
        return True


def salvage(path: Path) -> Salvage:
    """Open a catalogue for reading what is left of it."""
    return Salvage(path)
