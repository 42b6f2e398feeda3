"""Times of use, leases and verification times not yet written.

A lease is a touch, so answering costs no write: touches gather here and are written in one
transaction every Timing.flush_ms. How old the oldest one is bounds what a crash or a stuck disk
can make us forget; when it gets too old, no new lease is given (federation.storage.timing).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import apsw

from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import entries

_T = TypeVar("_T")


@dataclass(slots=True)
class TouchBatch:
    """What one flush writes."""

    blobs: dict[bytes, int] = field(default_factory=dict)
    leased: dict[bytes, int] = field(default_factory=dict)  # and not used
    entries: dict[int, int] = field(default_factory=dict)
    verified: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    oldest_ms: int | None = None
    in_doubt: bool = False  # holds a lease that came with bytes, when none was to be given

    def __bool__(self) -> bool:
        return bool(self.blobs or self.leased or self.entries or self.verified)

    def write(self, connection: apsw.Connection, floor_ms: int) -> None:
        """Write everything inside the open transaction, no access time below floor_ms.

        Who goes through all that is held in the order of these times (federation.storage.scan)
        relies on their being written soon: a batch that waited for a stuck disk counts as later.
        """
        catalogue.touch(connection, _not_below(self.blobs, floor_ms))
        catalogue.lease(connection, _not_below(self.leased, floor_ms))
        entries.touch(connection, _not_below(self.entries, floor_ms))
        catalogue.set_verified(connection, self.verified)


def _not_below(times: dict[_T, int], floor_ms: int) -> dict[_T, int]:
    return {name: max(time_ms, floor_ms) for name, time_ms in times.items()}


class Touches:
    """The gathering side; used from the event loop only."""

    def __init__(self) -> None:
        self._gathering = TouchBatch()
        self._flushing: TouchBatch | None = None

    def __repr__(self) -> str:
        batch = self._gathering
        return f"<Touches {len(batch.blobs)} blobs, {len(batch.entries)} entries>"

    def blobs(self, keys: Iterable[bytes], now_ms: int) -> None:
        """Note that clients used blobs, which leases them from now on."""
        before = len(self._gathering.blobs)
        self._gathering.blobs.update(dict.fromkeys(keys, now_ms))
        if len(self._gathering.blobs) > before:
            self._aged(now_ms)

    def leased(self, keys: Iterable[bytes], now_ms: int) -> None:
        """Lease blobs from now on, without their being used."""
        before = len(self._gathering.leased)
        self._gathering.leased.update(dict.fromkeys(keys, now_ms))
        if len(self._gathering.leased) > before:
            self._aged(now_ms)

    def entry(self, row_id: int, now_ms: int) -> None:
        """Note the use of an index entry."""
        self._gathering.entries[row_id] = now_ms
        self._aged(now_ms)

    def verified(self, key: bytes, now_ms: int, ctime_ns: int) -> None:
        """Note that a blob's bytes matched, and the ctime of its file (0: inline)."""
        self._gathering.verified[key] = (now_ms, ctime_ns)

    def _aged(self, now_ms: int) -> None:
        if self._gathering.oldest_ms is None:
            self._gathering.oldest_ms = now_ms

    def unflushed_since_ms(self) -> int | None:
        """Return the time of the oldest touch not yet written; None when all are."""
        if self._flushing is not None and self._flushing.oldest_ms is not None:
            return self._flushing.oldest_ms
        return self._gathering.oldest_ms

    def doubt(self) -> None:
        """Note that the leases just gathered were given when none was to be given."""
        self._gathering.in_doubt = True

    @property
    def in_doubt(self) -> bool:
        """Whether such leases are not yet written."""
        flushing = self._flushing
        return self._gathering.in_doubt or (flushing is not None and flushing.in_doubt)

    def take(self) -> TouchBatch:
        """Begin a flush; flushed() or failed() ends it."""
        self._flushing, self._gathering = self._gathering, TouchBatch()
        return self._flushing

    def flushed(self) -> None:
        """The batch taken last is durable."""
        self._flushing = None

    def failed(self) -> None:
        """The batch taken last was not written: keep it for the next flush."""
        if self._flushing is None:
            return
        batch, self._flushing = self._flushing, None
        newer = self._gathering
        batch.blobs.update(newer.blobs)
        batch.leased.update(newer.leased)
        batch.entries.update(newer.entries)
        batch.verified.update(newer.verified)
        batch.oldest_ms = batch.oldest_ms or newer.oldest_ms
        batch.in_doubt = batch.in_doubt or newer.in_doubt
        self._gathering = batch
