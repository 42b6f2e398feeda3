"""A memory cache of index entries: what was asked for lately needs no thread and no SQLite.

When you would want it: the machines of a build farm ask for the same results within minutes.

A cached entry is what the catalogue has at that moment, in whichever process it was changed: see
EntryChanges. A change by this process drops the entries that it may concern, one by another process
drops all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from federation.core.index import EntryKey
from federation.storage.catalogue.entries import EntryRow
from federation.storage.catalogue.entry_changes import EntryChanges

ROOM_BYTES = 16 * 2**20  # of a process
_ITEM_BYTES = 1000  # overhead of an entry
_SHARE = 64  # an entry may take at most 1/64 of the room
_AGE_MAX_MS = 60_000  # if somebody changes rows by hand behind running processes


@dataclass(slots=True)
class _Cached:
    row: EntryRow
    since_ms: int
    size_bytes: int


class EntryCache:
    """The most recently used entries. Used from the event loop only."""

    def __init__(
        self, changes: EntryChanges, now_ms: Callable[[], int], room_bytes: int = ROOM_BYTES
    ) -> None:
        self._changes = changes
        self._now_ms = now_ms
        self._room_bytes = room_bytes
        self._seen = changes.value
        self._entries: OrderedDict[EntryKey, _Cached] = OrderedDict()  # last used: at the end
        self.size_bytes = 0

    def __repr__(self) -> str:
        return (
            f"<EntryCache {len(self._entries)} entries, {self.size_bytes} of "
            f"{self._room_bytes} bytes>"
        )

    def catch_up(self) -> None:
        """Drop what may have changed; every call does that, but too many changes drop all."""
        now = self._changes.value
        while self._seen != now:
            step = self._changes.next_step()
            if step is None:
                self._drop_all()
                self._seen = now
            # A number in between is another process's change, of which no keys are known here.
            elif step.before != self._seen or step.keys is None:
                self._drop_all()
                self._seen = step.after
            else:
                for key in step.keys:
                    self._drop(key)
                self._seen = step.after

    def look_up(self, keys: Sequence[EntryKey]) -> list[EntryRow | None]:
        """Return the cached row of each key, None where there is none."""
        self.catch_up()
        return [self._row(key) for key in keys]

    def _row(self, key: EntryKey) -> EntryRow | None:
        cached = self._entries.get(key)
        if cached is None:
            return None
        if self._now_ms() - cached.since_ms > _AGE_MAX_MS:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return cached.row

    def keep(self, key: EntryKey, row: EntryRow) -> None:
        """Cache a row that was read a moment ago, unless entries have changed since."""
        self.catch_up()
        # Announced and perhaps committed since the row was read.
        if row.changes != self._seen:
            return
        entry = row.entry
        size_bytes = _ITEM_BYTES + len(entry.value) + len(entry.label)
        self._drop(key)
        if size_bytes * _SHARE > self._room_bytes:
            return
        self._entries[key] = _Cached(row, self._now_ms(), size_bytes)
        self.size_bytes += size_bytes
        while self.size_bytes > self._room_bytes:
            self._drop(next(iter(self._entries)))

    def touched(self, key: EntryKey, now_ms: int) -> None:
        """Record that a cached entry's use at now_ms will be written."""
        if (cached := self._entries.get(key)) is not None:
            cached.row = cached.row._replace(used_ms=now_ms)

    def _drop(self, key: EntryKey) -> None:
        cached = self._entries.pop(key, None)
        if cached is not None:
            self.size_bytes -= cached.size_bytes

    def _drop_all(self) -> None:
        self._entries.clear()
        self.size_bytes = 0
