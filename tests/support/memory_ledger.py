"""A node's storage in memory: blobs, index entries, and the change log with all that hangs on it.

MemoryStorage is what survives a crash; a MemoryLedger over it is one process's view. Nothing here
takes real time, so that a simulation can run thousands of nodes.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import AsyncIterable, Mapping, Sequence

from federation.core.clock import Clock, ManualClock
from federation.core.digest import Digest
from federation.core.errors import DigestMismatch, FederationError, LeadLost
from federation.core.index import NO_STAMP, Entry, EntryKey, Stamp
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.replication_log import (
    EntryHead,
    Lane,
    LogRow,
    LogSlice,
    Page,
    Parked,
    PeerRecord,
    PeerState,
)
from federation.wire.holdings import name_of
from tests.support.fakes import MemoryEntries, MemoryIngest, MemoryStore
from tests.support.memory_pins import MemoryPins
from tests.support.memory_purges import MemoryPurges

Key = tuple[str, Lane]


class MemoryStorage(MemoryStore, MemoryEntries):
    """LocalStore and Index with a change log; `blobs` and `entries` hold what there is."""

    def __init__(self, node_id: str = "here", clock: Clock | None = None) -> None:
        super().__init__()
        self.node_id = node_id
        self.clock = clock or ManualClock()
        self.entries: dict[EntryKey, Entry] = {}
        self.seq_of: dict[Digest | EntryKey, int] = {}
        self.place_of: dict[Digest | EntryKey, int] = {}  # in a walk; unlike the seq it stays
        self.source_of: dict[Digest, Source] = {}
        self.log: list[LogRow] = []
        self.head = 0
        self.total_bytes = 0
        self.last_ticks = 0
        self.records: dict[Key, PeerRecord] = {}
        self.parked: dict[tuple[str, Digest | EntryKey], Parked] = {}
        self.damaged: set[Digest] = set()
        self.leader: MemoryLedger | None = None
        self.grown = asyncio.Event()
        self.pins = MemoryPins()
        self.purges = MemoryPurges(
            self.blobs, self.entries, self._drop, self._tick, self.clock.monotonic_s
        )

    def forget_purges(self, keep_s: float) -> None:
        """Do as maintenance does: see forget_purges in storage/upkeep/retention.py."""
        told = [each.purges for each in self.records.values() if each.lane is Lane.ALWAYS]
        self.purges.forget(keep_s, min(told, default=self.purges.newest))

    def _drop(self, thing: Digest | EntryKey) -> None:
        if isinstance(thing, Digest):
            self.remove(thing)
        else:
            del self.entries[thing]
            self.seq_of.pop(thing, None)
            self.place_of.pop(thing, None)

    # Blobs

    def take(self, digest: Digest, data: bytes, provenance: Provenance = FROM_CLIENT) -> bool:
        """Accept a blob; one that only an upstream gave so far is accepted anew."""
        if self.purges.has(digest):
            if provenance.source is not Source.CLIENT:
                return False
            self.check(digest, data)
            self.purges.allow(digest)
        new = self.add(digest, data)
        again = self.source_of.get(digest) is Source.UPSTREAM is not provenance.source
        if new or (again and not digest.is_empty):
            self.source_of[digest] = provenance.source
            self._log(digest, None, digest.size_bytes, provenance)
        return new

    def remove(self, digest: Digest) -> None:
        super().remove(digest)
        self.source_of.pop(digest, None)
        self.seq_of.pop(digest, None)
        self.place_of.pop(digest, None)

    def begin(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> MemoryIngest:
        return _Ingest(self, digest, provenance)

    async def write(
        self, digest: Digest, chunks: AsyncIterable[bytes], *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        held = self._get(digest)
        if held is None:
            held = b"".join([chunk async for chunk in chunks])
        return self.take(digest, held, provenance)

    async def write_one(
        self, digest: Digest, data: bytes, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        held = self._get(digest)
        return self.take(digest, data if held is None else held, provenance)

    async def accept_held(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> bool:
        held = self._get(digest)
        if held is not None:
            self.take(digest, held, provenance)
        return held is not None

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], *, provenance: Provenance = FROM_CLIENT
    ) -> list[FederationError | None]:
        outcome: list[FederationError | None] = []
        for digest, data in blobs:
            try:
                self.take(digest, data, provenance)
                outcome.append(None)
            except DigestMismatch as error:
                outcome.append(error)
        return outcome

    # Index entries

    async def put(self, entries: Sequence[Entry], *, provenance: Provenance = FROM_CLIENT) -> None:
        for entry in entries:
            self.put_one(entry, provenance)

    def put_one(self, entry: Entry, provenance: Provenance = FROM_CLIENT) -> bool:
        """Return whether the entry was taken over, which is when the log tells of it."""
        held = self.entries.get(entry.key)
        is_dated = provenance.source is Source.PEER and entry.stamp != NO_STAMP
        if (is_dated or provenance.source is Source.UPSTREAM) and self.purges.bars(
            entry.key, entry.stamp if is_dated else NO_STAMP
        ):
            return False
        if held is not None and not self._replaces(entry, held, provenance.source):
            return False
        stamp = entry.stamp
        if provenance.source is Source.UPSTREAM:
            stamp = NO_STAMP
        elif provenance.source is Source.CLIENT or stamp == NO_STAMP:
            stamp = self._tick()
        else:
            self.last_ticks = max(self.last_ticks, stamp.ticks)
        self.entries[entry.key] = entry._replace(
            stored_at_s=self.clock.wall_s(),
            source=provenance.source,
            origin=provenance.origin,
            stamp=stamp,
        )
        self._log(None, entry.key, len(entry.value) + len(entry.label.encode()), provenance)
        return True

    def _replaces(self, entry: Entry, held: Entry, source: Source) -> bool:
        same = (entry.value, entry.expires_at_s) == (held.value, held.expires_at_s)
        if source is Source.UPSTREAM:
            expired = held.expires_at_s is not None and held.expires_at_s <= self.clock.wall_s()
            return not same and (held.source is Source.UPSTREAM or expired)
        if held.source is Source.UPSTREAM:
            return True
        if source is Source.CLIENT or entry.stamp == NO_STAMP:
            return not same
        return _rank(entry) > _rank(held)

    def _tick(self, above: Stamp = NO_STAMP) -> Stamp:
        self.last_ticks = max(self.last_ticks, above.ticks)
        self.last_ticks = max(self.last_ticks + 1, int(self.clock.wall_s() * 1000) << 16)
        return Stamp(self.last_ticks, self.node_id)

    # The log

    def _log(
        self, digest: Digest | None, key: EntryKey | None, size: int, provenance: Provenance
    ) -> None:
        self.head += 1
        self.total_bytes += size
        source, via, origin, _ = provenance
        at_s = self.clock.wall_s()
        row = LogRow(self.head, digest, key, size, at_s, source, via, origin, self.total_bytes)
        self.log.append(row)
        self.seq_of[_object(digest, key)] = row.seq
        self.place_of.setdefault(_object(digest, key), row.seq)
        self.grown.set()
        self.grown = asyncio.Event()

    def trim(self, up_to: int) -> None:
        """Forget rows; a record that has not come so far can only be helped by a resync."""
        if any(row.seq <= up_to for row in self.log):
            for key, record in self.records.items():
                if record.holds and record.cursor < up_to:
                    self.mark(key, "the change log no longer reaches back far enough")
        self.log = [row for row in self.log if row.seq > up_to]

    def mark(self, key: Key, reason: str) -> None:
        """Mark a record as storage does."""
        record = self.records[key]
        self.records[key] = record._replace(
            state=PeerState.NEEDS_RESYNC,
            reason=reason,
            position="",
            marks=record.marks + 1,
            holds=False,
        )


class _Ingest(MemoryIngest):
    _store: MemoryStorage

    async def commit(self) -> bool:
        return self._store.take(self.digest, bytes(self._data), self.provenance)


class MemoryLedger:
    """See federation.core.replication_log.Ledger."""

    def __init__(self, storage: MemoryStorage) -> None:
        self.storage = storage
        self.noted: dict[Key, int] = {}

    def __repr__(self) -> str:
        return f"<MemoryLedger of {self.node_id} at {self.head()}>"

    @property
    def node_id(self) -> str:
        return self.storage.node_id

    @property
    def purges(self) -> MemoryPurges:
        return self.storage.purges

    @property
    def pins(self) -> MemoryPins:
        return self.storage.pins

    @property
    def log_epoch(self) -> str:
        return f"epoch-of-{self.storage.node_id}"

    def try_to_lead(self) -> bool:
        if self.storage.leader is None:
            self.storage.leader = self
        return self.storage.leader is self

    def holds_lead(self) -> bool:
        return self.storage.leader is self

    def overtake(self) -> None:
        """Lead in the place of whoever does, as after a silence of that process."""
        self.storage.leader = self

    def _check_lead(self) -> None:
        """Raise LeadLost where another leads; tests also write where nobody does."""
        if self.storage.leader not in {None, self}:
            raise LeadLost("another process replicates by now")

    def close(self) -> None:
        """Stop leading, as the end of a process does."""
        if self.storage.leader is self:
            self.storage.leader = None

    def head(self) -> int:
        return self.storage.head

    async def wait_beyond(self, seq: int, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while self.head() <= seq:
                    await self.storage.grown.wait()
        except TimeoutError:
            return False
        return True

    async def read(self, after: int, limit: int) -> LogSlice:
        await asyncio.sleep(0)
        log = self.storage.log
        start = bisect_right(log, after, key=lambda row: row.seq)
        oldest = log[0].seq if log else self.head() + 1
        is_whole = oldest <= after + 1 <= self.head() + 1
        return LogSlice(log[start : start + limit], is_whole)

    async def total_bytes(self, seq: int) -> int:
        log = self.storage.log
        at = bisect_right(log, seq, key=lambda row: row.seq)
        if at:
            return log[at - 1].total_bytes
        return log[0].total_bytes - log[0].size_bytes if log else self.storage.total_bytes

    async def peers(self) -> list[PeerRecord]:
        return [_checked(record, self.head()) for record in self.storage.records.values()]

    async def save(self, records: Sequence[PeerRecord]) -> None:
        await asyncio.sleep(0)
        self._check_lead()
        for record in records:
            key = (record.name, record.lane)
            self.storage.records[key] = _saved(record, self.storage.records.get(key))

    async def want(self, name: str) -> None:
        for key, record in self.storage.records.items():
            if record.name == name:
                self.storage.records[key] = record._replace(wanted=record.wanted + 1)

    async def drop(self, name: str) -> None:
        records, parked = self.storage.records, self.storage.parked
        for key in [key for key in records if key[0] == name]:
            del records[key]
        for where in [where for where in parked if where[0] == name]:
            del parked[where]

    def note_acknowledged(self, name: str, lane: Lane, seq: int) -> None:
        self.noted[name, lane] = seq

    def note_unacknowledged(self, name: str) -> None:
        self.noted.pop((name, Lane.ALWAYS), None)

    async def park(self, rows: Sequence[Parked]) -> None:
        await asyncio.sleep(0)
        self._check_lead()
        for row in rows:
            where = (row.peer, _object(row.digest, row.key))
            held = self.storage.parked.get(where)
            tries = held.tries + 1 if held else 1
            self.storage.parked[where] = row._replace(tries=tries, retry=False)

    async def parked(self, name: str | None = None, limit: int = 1000) -> list[Parked]:
        rows = [row for row in self.storage.parked.values() if name in {None, row.peer}]
        return sorted(rows, key=lambda row: row.parked_at_s)[:limit]

    async def parked_due(
        self, name: str, now_s: float, waits_s: Sequence[float], limit: int
    ) -> list[Parked]:
        due = [
            row
            for row in self.storage.parked.values()
            if row.peer == name
            and (
                row.retry
                or not 0 <= now_s - row.parked_at_s < waits_s[min(row.tries, len(waits_s)) - 1]
            )
        ]
        return sorted(due, key=lambda row: (not row.retry, row.parked_at_s))[:limit]

    async def parked_counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for row in self.storage.parked.values():
            counts[row.peer] = counts.get(row.peer, 0) + 1
        return counts

    async def unpark(self, rows: Sequence[Parked]) -> None:
        for row in rows:
            self.storage.parked.pop((row.peer, _object(row.digest, row.key)), None)

    async def ask_retry(self, name: str | None = None) -> int:
        asked = 0
        for where, row in self.storage.parked.items():
            if name in {None, row.peer}:
                self.storage.parked[where] = row._replace(retry=True)
                asked += 1
        return asked

    async def entries_at(self, keys: Sequence[EntryKey]) -> list[tuple[int, Entry] | None]:
        await asyncio.sleep(0)
        storage = self.storage
        held = [(storage.seq_of.get(key, 0), storage.entries.get(key)) for key in keys]
        return [None if entry is None else (seq, entry) for seq, entry in held]

    async def heads_at(self, keys: Sequence[EntryKey]) -> list[EntryHead | None]:
        await asyncio.sleep(0)
        storage = self.storage
        held = [(storage.seq_of.get(key, 0), storage.entries.get(key)) for key in keys]
        return [None if entry is None else EntryHead(seq, *_head(entry)) for seq, entry in held]

    async def blobs(self, position: str | None, limit: int) -> Page:
        held = {self.storage.place_of[digest]: digest for digest in self.storage.blobs}
        places, following = _part(held, position, limit)
        digests = [held[place] for place in places]
        source_of = self.storage.source_of
        pulled = frozenset(d for d in digests if source_of.get(d) is Source.UPSTREAM)
        return Page(digests, [], following, pulled)

    async def entries(self, position: str | None, limit: int) -> Page:
        held = {self.storage.place_of[key]: each for key, each in self.storage.entries.items()}
        places, following = _part(held, position, limit)
        return Page([], [held[place] for place in places], following)

    async def held(self) -> tuple[int, int]:
        return len(self.storage.blobs), len(self.storage.entries)

    async def held_like(self, names: Sequence[bytes]) -> set[bytes]:
        held = {name_of(digest) for digest in self.storage.blobs}
        held |= {
            name_of(d) for d in self.purges.records if isinstance(d, Digest) and self.purges.has(d)
        }
        return held.intersection(names)

    async def is_damaged(self, digest: Digest) -> bool:
        return digest in self.storage.damaged and digest not in self.storage.blobs


def _head(entry: Entry) -> tuple[EntryKey, str, int, float | None, Source]:
    return entry.key, entry.label, len(entry.value), entry.expires_at_s, entry.source


def _object(digest: Digest | None, key: EntryKey | None) -> Digest | EntryKey:
    assert (digest is None) != (key is None), "a blob or an entry"
    if digest is not None:
        return digest
    assert key is not None
    return key


def _checked(record: PeerRecord, head: int) -> PeerRecord:
    if record.cursor <= head:
        return record
    reason = "its cursor is beyond the end of the change log"
    return record._replace(state=PeerState.NEEDS_RESYNC, reason=reason, position="", holds=False)


def _saved(record: PeerRecord, held: PeerRecord | None) -> PeerRecord:
    if held is None:
        return record._replace(wanted=0, marks=0)
    if record.marks < held.marks:
        record = record._replace(
            state=held.state, reason=held.reason, position=held.position, holds=held.holds
        )
    elif record.state is PeerState.FOLLOWING:
        record = record._replace(holds=True)
    return record._replace(wanted=held.wanted, marks=held.marks)


def _rank(entry: Entry) -> tuple[Stamp, bytes]:
    """What decides between two entries of one name: the stamp, and the value where that ties."""
    return entry.stamp, hashlib.sha256(entry.value).digest()


def _part(
    held: Mapping[int, object], position: str | None, limit: int
) -> tuple[list[int], str | None]:
    below = int(position) if position is not None else 2**63
    left = sorted((place for place in held if place < below), reverse=True)
    return left[:limit], str(left[limit - 1]) if len(left) > limit else None
