"""A node of a schedule: what survives a crash, and how what arrives is judged.

Everything that decides is the real thing: how headers are read, what they say of where an object
comes from, which value of a name stays and how it is dated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from federation.core import hops
from federation.core.digest import Digest
from federation.core.errors import InvalidRequest
from federation.core.index import NO_STAMP, Entry, EntryKey, Stamp
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.replication_log import EntryHead, Lane, LogRow, Parked
from federation.remote.failures import FailureKind, RemoteFailed, failure
from federation.services.call import provenance_of
from federation.storage.catalogue.hlc import DRIFT_S, Held, Verdict, date, is_too_far, next_ticks
from tests.replication.schedule_world import Life, World

WALL_S = 1_800_000_000.0
Way = tuple[str, ...]  # the nodes that an object has passed, as nobody may get wrong
Headers = list[tuple[str, str]]


class Fact(NamedTuple):
    """What the judge knows of a log row."""

    way: Way
    stamp: Stamp


class Node:
    """The durable part of a node, and the life that it lives at the moment."""

    def __init__(self, world: World, number: int, skew_s: float, batch_bytes: int) -> None:
        """batch_bytes: the most that it takes at once."""
        self.world = world
        self.batch_bytes = batch_bytes
        self.name = f"n{number}"
        self.skew_s = skew_s
        self.jolt_s = 0.0  # more of it, for a while
        self.drift_s = DRIFT_S
        self.life = Life()
        self.life.is_over = True
        self.senders: list[Any] = []
        self.log: list[LogRow | None] = []  # None: a number that was given to no row
        self.facts: list[Fact] = []  # of each row of the log
        self.blobs: dict[Digest, Source] = {}
        self.entries: dict[EntryKey, tuple[int, Entry]] = {}
        self.ticks = 0
        self.cursors: dict[tuple[str, Lane], int] = {}
        self.parked: dict[tuple[str, Digest | EntryKey], Parked] = {}
        self.names: dict[bytes, tuple[Digest, ...]] = {}  # by value: what it needs
        self.refuses: dict[Digest | EntryKey, FailureKind] = {}
        self.refuses_all: FailureKind | None = None

    @property
    def wall_s(self) -> float:
        """The time as this node has it."""
        return WALL_S + self.world.now_s + self.skew_s + self.jolt_s

    def is_wrongly_dated(self, stamp: Stamp) -> bool:
        """Whether it is too far ahead by the clock as it is but for a moment."""
        return is_too_far(stamp, self.wall_s - self.jolt_s, self.drift_s)

    @property
    def head(self) -> int:
        """The newest row's seq."""
        return len(self.log)

    def rows(self, first: int, last: int) -> list[LogRow]:
        """Return what there is within first..last."""
        return [row for row in self.log[first - 1 : last] if row is not None]

    def head_of(self, key: EntryKey) -> EntryHead | None:
        """Return what is held under a name, without its value."""
        if key not in self.entries:
            return None
        seq, entry = self.entries[key]
        size = len(entry.value)
        return EntryHead(seq, key, entry.label, size, entry.expires_at_s, entry.source)

    def crash(self) -> None:
        """Lose everything but what is durable."""
        self.life.is_over = True
        self.senders = []

    # What arrives; each answer is None or why it was refused

    def receive_blobs(
        self, headers: Headers, digests: Sequence[Digest], way: Way
    ) -> list[RemoteFailed | None]:
        """Take a batch, or a large one."""
        came = provenance_of(self._read(headers, way))
        refusals = [self._refusal(digest) for digest in digests]
        for digest, refusal in zip(digests, refusals, strict=True):
            if refusal is None:
                self.take(digest, came, way)
        return refusals

    def receive_entry(self, headers: Headers, entry: Entry, way: Way) -> RemoteFailed | None:
        """Take an entry, dated as its headers say."""
        passed = self._read(headers, way)
        if (refusal := self._refusal(entry.key)) is not None:
            return refusal
        holes = [d for d in self.names[entry.value] if d not in self.blobs]
        if holes:
            self.world.wrong(f"{self.name} got {entry.label} before {len(holes)} of its blobs")
        stamp = passed.stamp or NO_STAMP
        try:
            self.put(entry._replace(stamp=stamp), provenance_of(passed), way)
        except InvalidRequest as error:
            return failure(self.name, FailureKind.REFUSED, str(error))
        return None

    def lacking(self, digests: Sequence[Digest]) -> set[Digest]:
        """Return which of these are not here."""
        return {digest for digest in digests if digest not in self.blobs}

    def _read(self, headers: Headers, way: Way) -> hops.Hops:
        passed = hops.parse(headers)
        if (passed.via, passed.origin, passed.replicates) != (way, way[0], True):
            self.world.wrong(f"{self.name} was told {headers} of what passed {way}")
        return passed

    def _refusal(self, thing: Digest | EntryKey) -> RemoteFailed | None:
        kind = self.refuses_all or self.refuses.get(thing)
        return failure(self.name, kind, "on purpose") if kind else None

    # What is held

    def take(self, digest: Digest, came: Provenance = FROM_CLIENT, way: Way = ()) -> None:
        """Hold a blob; one that only an upstream gave so far is taken anew, as by the catalogue."""
        held = self.blobs.get(digest)
        if held is None or (held is Source.UPSTREAM is not came.source):
            self.blobs[digest] = came.source
            self._log(digest, None, digest.size_bytes, came, Fact(way, NO_STAMP))

    def put(self, entry: Entry, came: Provenance = FROM_CLIENT, way: Way = ()) -> Stamp | None:
        """Hold an entry if it is to stay; return the stamp that it got then."""
        _, old = self.entries.get(entry.key, (0, None))
        held = old and Held(old.value, old.expires_at_s, old.source, old.stamp)
        dated = date(held, entry, came.source, self.ticks, self.name, self.wall_s, self.drift_s)
        self.ticks = dated.ticks
        if dated.verdict is not Verdict.TAKE:
            return None
        kept = entry._replace(source=came.source, origin=came.origin, stamp=dated.stamp)
        seq = self._log(None, entry.key, len(entry.value), came, Fact(way, dated.stamp))
        self.entries[entry.key] = (seq, kept)
        return dated.stamp

    def redate(self) -> list[Entry]:
        """Date anew what is too far ahead, as storage does; return these entries."""
        redated = []
        for key, (_, old) in list(self.entries.items()):
            if is_too_far(old.stamp, self.wall_s, self.drift_s):
                ticks = next_ticks(self.ticks, self.wall_s, self.drift_s)
                entry = old._replace(stamp=Stamp(ticks, self.name))
                came = Provenance(entry.source, origin=entry.origin)
                seq = self._log(None, key, len(entry.value), came, Fact((), entry.stamp))
                self.entries[key] = (seq, entry)
                redated.append(entry)
        newest = max((entry.stamp.ticks for _, entry in self.entries.values()), default=0)
        settled = next_ticks(self.ticks, self.wall_s, self.drift_s)
        self.ticks = min(self.ticks, max(newest, settled))
        return redated

    def _log(
        self, digest: Digest | None, key: EntryKey | None, size: int, came: Provenance, fact: Fact
    ) -> int:
        if self.world.rng.random() < 0.03:
            self.log.append(None)
            self.facts.append(fact)
        seq = self.head + 1
        self.log.append(LogRow(seq, digest, key, size, 0.0, came.source, came.via, came.origin, 0))
        self.facts.append(fact)
        for sender in self.senders:
            sender.wake()
        return seq
