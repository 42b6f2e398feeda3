"""Times of use, leases and verifications that are not written to the catalogue yet.

Giving a lease only records a touch in memory, so answering costs no write: touches gather here and
are written in one transaction every Timing.flush_ms. A crash or a stuck disk loses at most what is
as old as the oldest touch; if that gets too old, no new lease is given (federation.storage.timing).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import apsw

from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import entries
from federation.storage.catalogue import purges as purge_records

_T = TypeVar("_T")


@dataclass(slots=True)
class TouchBatch:
    """What one flush writes; all times are store milliseconds."""

    blobs: dict[bytes, int] = field(default_factory=dict)  # last use by catalogue key
    leased: dict[bytes, int] = field(default_factory=dict)  # leases without a use
    entries: dict[int, int] = field(default_factory=dict)  # last use by row id
    verified: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # time, ctime_ns
    purges: dict[purge_records.Name, int] = field(default_factory=dict)  # last use
    oldest_ms: int | None = None
    in_doubt: bool = False  # contains leases given (by a read) while no new lease was allowed

    def __bool__(self) -> bool:
        return bool(self.blobs or self.leased or self.entries or self.verified or self.purges)

    def write(self, connection: apsw.Connection, floor_ms: int) -> None:
        """Write everything in the open transaction; raise earlier access times to floor_ms.

        federation.storage.scan walks blobs in the order of these times, and relies on their being
        written soon. So a batch that waited for a stuck disk gets later times.
        """
        catalogue.touch(connection, _not_below(self.blobs, floor_ms))
        catalogue.lease(connection, _not_below(self.leased, floor_ms))
        entries.touch(connection, _not_below(self.entries, floor_ms))
        catalogue.set_verified(connection, self.verified)
        for name, used_ms in self.purges.items():
            purge_records.note_used(connection, [name], used_ms)


def _not_below(times: dict[_T, int], floor_ms: int) -> dict[_T, int]:
    return {name: max(time_ms, floor_ms) for name, time_ms in times.items()}


class Touches:
    """Gathers touches and hands them to flushes. Used from the event loop only."""

    def __init__(self) -> None:
        self._gathering = TouchBatch()
        self._flushing: TouchBatch | None = None

    def __repr__(self) -> str:
        batch = self._gathering
        return f"<Touches {len(batch.blobs)} blobs, {len(batch.entries)} entries>"

    def blobs(self, keys: Iterable[bytes], now_ms: int) -> None:
        """Record that clients used blobs at now_ms, which leases them."""
        before = len(self._gathering.blobs)
        self._gathering.blobs.update(dict.fromkeys(keys, now_ms))
        # A repeated use adds nothing that would wait longer than what waits already.
        if len(self._gathering.blobs) > before:
            self._note_oldest(now_ms)

    def leased(self, keys: Iterable[bytes], now_ms: int) -> None:
        """Record a lease of blobs at now_ms that does not count as a use."""
        before = len(self._gathering.leased)
        self._gathering.leased.update(dict.fromkeys(keys, now_ms))
        if len(self._gathering.leased) > before:
            self._note_oldest(now_ms)

    def entry(self, row_id: int, now_ms: int) -> None:
        """Record the use of an index entry."""
        self._gathering.entries[row_id] = now_ms
        self._note_oldest(now_ms)

    def verified(self, key: bytes, now_ms: int, ctime_ns: int) -> None:
        """Record that a blob matched its digest, and its file's ctime (0: inline)."""
        self._gathering.verified[key] = (now_ms, ctime_ns)

    def purges(self, names: Iterable[purge_records.Name], now_ms: int) -> None:
        """Record that purge records kept something out at now_ms."""
        self._gathering.purges.update(dict.fromkeys(names, now_ms))

    def _note_oldest(self, now_ms: int) -> None:
        if self._gathering.oldest_ms is None:
            self._gathering.oldest_ms = now_ms

    def unflushed_since_ms(self) -> int | None:
        """Return the time of the oldest unwritten touch (store ms); None: all are written."""
        # What is being written is older than whatever has gathered since.
        if self._flushing is not None and self._flushing.oldest_ms is not None:
            return self._flushing.oldest_ms
        return self._gathering.oldest_ms

    def doubt(self) -> None:
        """Record that the leases just gathered were given while no new lease was allowed."""
        self._gathering.in_doubt = True

    @property
    def in_doubt(self) -> bool:
        """Whether unwritten leases were given while no new lease was allowed."""
        flushing = self._flushing
        return self._gathering.in_doubt or (flushing is not None and flushing.in_doubt)

    def take(self) -> TouchBatch:
        """Begin a flush and return its batch; call flushed() or failed() to end it."""
        self._flushing, self._gathering = self._gathering, TouchBatch()
        return self._flushing

    def flushed(self) -> None:
        """End the flush: its batch is durable."""
        self._flushing = None

    def failed(self) -> None:
        """End the flush: its batch was not written, and goes into the next one."""
        if self._flushing is None:
            return
        batch, self._flushing = self._flushing, None
        newer = self._gathering
        # The newer times replace the older ones of the same names.
        batch.blobs.update(newer.blobs)
        batch.leased.update(newer.leased)
        batch.entries.update(newer.entries)
        batch.verified.update(newer.verified)
        batch.purges.update(newer.purges)
        batch.oldest_ms = batch.oldest_ms or newer.oldest_ms
        batch.in_doubt = batch.in_doubt or newer.in_doubt
        self._gathering = batch
