"""Sending index entries to one peer: each after its closure, with its current value."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

from federation.core.clock import Clock
from federation.core.errors import FederationError, SourceUnavailable, StorageFailed
from federation.core.index import NO_STAMP, PULLED_TICKS, Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import Source
from federation.core.replication_log import EntryHead, ReplicationLog
from federation.core.store import Readable
from federation.remote.failures import Denied, RemoteFailed, RequestRefused, Unsupported
from federation.replication.closure_sender import ShippingStore, Walk
from federation.replication.counters import PeerCounters
from federation.replication.gate import Gate
from federation.replication.outcomes import (
    GONE,
    PRESENT,
    SENT,
    SUPERSEDED,
    TOO_FAR,
    Fault,
    SendOutcome,
    parked,
    skipped,
)
from federation.replication.peer_api import ObjectHistory, PeerApi, Theirs, Via
from federation.replication.rules import Bounds, may_go_on
from federation.replication.send_memory import PeerMemory
from federation.replication.shipping import Shipper

WALKS_AT_ONCE = 16
WALKS_BEGUN_MAX = 64  # those that wait for a large blob included
_NAMES_COST = 4  # what an entry names takes so many times its bytes while it is walked
_HOLE_DELAYS_S = (0.2, 0.5, 1.0, 2.0)
_AGAIN_FIRST_S, _AGAIN_MAX_S = 1.0, 60.0

EXPIRED = skipped("expired")
_SERVICES = {
    EntryKind.ACTION_RESULT: "ActionCache",
    EntryKind.ASSET_BLOB: "Remote Asset",
    EntryKind.ASSET_DIRECTORY: "Remote Asset",
}


class Hole(enum.Enum):
    """What to do with an entry that names a blob which is missing here."""

    WAIT = "wait"  # clients push in any order: wait some seconds, then park
    PARK = "park"
    SKIP = "skip"  # it is hidden here, too; a new push sends it


class EntryToSend(NamedTuple):
    """An entry to be sent. Its value is read only while it is needed."""

    head: EntryHead
    via: Via
    bounds: Bounds = Bounds()
    hole: Hole = Hole.WAIT
    compares: bool = False  # look first what the peer has under this name
    keeps_theirs: bool = False  # then leave another value there, and the date of the same one
    unused_s: float = 0.0

    @property
    def history(self) -> ObjectHistory:
        """What the peer is told about the entry and the blobs sent for it."""
        return ObjectHistory(self.via, self.unused_s)


class _Name:
    """A lock of one name, and how many use it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class EntrySender:
    """Sends entries to one peer."""

    def __init__(
        self,
        store: Readable,
        change_log: ReplicationLog,
        api: PeerApi,
        gate: Gate,
        shipper: Shipper,
        walk: Walk,
        counters: PeerCounters,
        memory: PeerMemory,
        clock: Clock,
    ) -> None:
        """memory: for values whose closures are being sent."""
        self._store = store
        self._change_log = change_log
        self._api = api
        self._gate = gate
        self._shipper = shipper
        self._walk = walk
        self._counters = counters
        self._clock = clock
        self._memory = memory
        self._names: dict[EntryKey, _Name] = {}
        self._begun = asyncio.Semaphore(WALKS_BEGUN_MAX)
        self._walking = asyncio.Semaphore(WALKS_AT_ONCE)

    def __repr__(self) -> str:
        return f"<EntrySender {len(self._names)} names>"

    async def send(self, wanted: EntryToSend) -> SendOutcome:
        """Send one entry; return its outcome. Of several values of a name the newest goes last.

        Raises the errors of the store and the change log.
        """
        if (outcome := self._against(wanted)) is not None:
            return outcome
        # Read before the peer is asked: push() refuses if another node answers by then.
        node_id = self._api.identity.node_id
        theirs = await self._settled(wanted) if wanted.compares else Theirs.NOTHING
        if isinstance(theirs, SendOutcome):
            return theirs
        if theirs is Theirs.SAME:  # a peer serves what is whole there; it may have an older date
            outcome = await self._push_in_order(wanted, node_id)
            return PRESENT if outcome is SENT else outcome
        if (outcome := await self._closed(wanted)) is not None:
            return outcome
        return await self._push_in_order(wanted, node_id)

    @asynccontextmanager
    async def _value(
        self, head: EntryHead, memory: PeerMemory, size_bytes: int
    ) -> AsyncIterator[Entry | SendOutcome]:
        """Hold memory, and give the entry if it is still the newest of its name."""
        async with memory.hold(size_bytes):
            (now,) = await self._change_log.entries_at([head.key])
            if now is None:
                yield GONE
            elif now[0] > head.seq:
                yield SUPERSEDED
            else:
                yield now[1]

    def _for_walk(self, head: EntryHead) -> AbstractAsyncContextManager[Entry | SendOutcome]:
        return self._value(head, self._memory, _NAMES_COST * head.value_bytes)

    def _for_call(self, head: EntryHead) -> AbstractAsyncContextManager[Entry | SendOutcome]:
        """Used within a turn at the gate: memory for calls must not be held while waiting there."""
        return self._value(head, self._shipper.sender.memory, head.value_bytes)

    def _against(self, wanted: EntryToSend) -> SendOutcome | None:
        """Return why an entry is not sent at all; None: it may be sent."""
        head = wanted.head
        if not may_go_on(wanted.via):
            return TOO_FAR
        if head.expires_at_s is not None and head.expires_at_s <= self._clock.wall_s():
            return EXPIRED
        if self._api.lacks(head.key.kind):
            return self._lacking(head.key.kind)
        return None

    async def _settled(self, wanted: EntryToSend) -> SendOutcome | Theirs:
        """Compare with the peer; an outcome: nothing has to be sent."""
        confirmed, this_one = self._shipper.confirmed, (wanted.head.key, wanted.head.seq)
        keeps_theirs = wanted.keeps_theirs or this_one in confirmed  # then theirs is newer
        # Otherwise _push_in_order would call it present, although the peer has just denied that.
        confirmed.discard(this_one)
        theirs = await self._compare(wanted.head)
        # Two nodes may have got a value from clients. Both have to date it by the later push:
        # otherwise a purge from between the two removes one copy alone.
        is_told = keeps_theirs or wanted.head.source is Source.UPSTREAM
        has_it = theirs is Theirs.SAME and is_told
        return PRESENT if has_it or (theirs is Theirs.OTHER and keeps_theirs) else theirs

    async def _compare(self, head: EntryHead) -> Theirs | SendOutcome:
        """Compare until there is an answer. A peer that denies it may have any value."""

        async def compare() -> Theirs | SendOutcome:
            async with self._for_call(head) as entry:
                if isinstance(entry, SendOutcome):
                    return entry
                try:
                    return await self._api.compare(entry)
                except (RequestRefused, Denied):
                    return Theirs.OTHER
                except Unsupported as error:  # what is there stays unknown
                    return self._unsupported(head.key.kind, error)

        return await self._shipper.sender.answered_call.answer(compare)

    @asynccontextmanager
    async def _turn_of(self, key: EntryKey) -> AsyncIterator[None]:
        """Wait for other senders of this name.

        An older value must not arrive last: it would replace the newer one at a peer that does not
        know stamps. So a value is read only in its turn, which lasts until it is sent.
        """
        name = self._names.setdefault(key, _Name())
        name.users += 1
        try:
            async with name.lock:
                yield
        finally:
            name.users -= 1
            if not name.users:
                del self._names[key]

    async def _push_in_order(self, wanted: EntryToSend, node_id: str) -> SendOutcome:
        confirmed, this_one = self._shipper.confirmed, (wanted.head.key, wanted.head.seq)
        async with self._turn_of(wanted.head.key):
            if this_one in confirmed:
                return PRESENT
            outcome = await self._push(wanted, node_id)
            if outcome.is_there:
                confirmed.add(this_one)
        return outcome

    async def _closed(self, wanted: EntryToSend, *, anew: bool = False) -> SendOutcome | None:
        """Send the closure; None: the peer holds it, and the entry may follow."""
        purges = self._shipper.purges
        for delay_s in (*(_HOLE_DELAYS_S if wanted.hole is Hole.WAIT else ()), None):
            parts = self._store, self._shipper, wanted.history, wanted.bounds, self._for_large
            view = ShippingStore(*parts, purges.not_needed)
            if anew:
                # The peer has just refused the entry: what it confirmed may be gone.
                self._shipper.confirmed.clear()
            try:
                # Memory before the turn to walk: a wait for memory must hold up no other walk.
                async with self._begun, self._for_walk(wanted.head) as entry:
                    if isinstance(entry, SendOutcome):
                        return entry
                    async with self._walking:
                        if await self._walk(view, entry):
                            return None
            # Local trouble passes; parking for it would fill the table whenever a disk is slow.
            except (SourceUnavailable, StorageFailed):
                raise
            except FederationError as error:
                return parked(str(error))
            # Only what is missing here may still be on its way from a client.
            if view.lacks_here is None or delay_s is None:
                break
            await self._clock.sleep(delay_s)
            if await self._is_old(wanted):
                return SUPERSEDED
        if view.lacks_here and await purges.are_purged([view.lacks_here]):
            return purges.of_entry_without_blob()
        return view.why_open(skips=wanted.hole is Hole.SKIP)

    @asynccontextmanager
    async def _for_large(self) -> AsyncIterator[None]:
        """Let another walk go on while this one sends a large blob."""
        # `_begun` stays held, which bounds the walks that wait for large blobs.
        self._walking.release()
        try:
            yield
        finally:
            await self._walking.acquire()

    async def _is_old(self, wanted: EntryToSend) -> bool:
        (now,) = await self._change_log.heads_at([wanted.head.key])
        return now is None or now.seq > wanted.head.seq

    async def _push(self, wanted: EntryToSend, node_id: str) -> SendOutcome:
        """Push until the outcome is known. node_id: the node that holds the closure."""
        delay_s, refused = 0.0, False
        while True:
            result = await self._try_push(wanted, node_id, refused=refused)
            if isinstance(result, SendOutcome):
                return result
            # The peer may refuse it because it has lost something that the entry names.
            anew = isinstance(result, RequestRefused) and not refused
            refused = refused or anew
            if not anew:
                await self._shipper.sender.answered_call.raise_if_permanent(result)
                if self._gate.is_open:
                    delay_s = min(_AGAIN_MAX_S, max(_AGAIN_FIRST_S, delay_s * 2))
                    await self._clock.sleep(delay_s)
            if await self._is_old(wanted):
                return SUPERSEDED
            node_id = self._api.identity.node_id
            if (outcome := await self._closed(wanted, anew=anew)) is not None:
                return outcome

    async def _try_push(
        self, wanted: EntryToSend, node_id: str, *, refused: bool
    ) -> SendOutcome | RemoteFailed:
        """Push once. refused: it was refused before; a second refusal is counted against it."""
        key = wanted.head.key
        async with self._gate.turn(writes=True) as turn, self._for_call(wanted.head) as entry:
            if isinstance(entry, SendOutcome):
                return entry
            await self._gate.throttle.turn()
            try:
                stamped = entry._replace(stamp=stamp_to_send(entry, self._change_log.node_id))
                await self._api.push(stamped, wanted.history, node_id)
            # The peer answers, so the gate is not closed: it may have the other services.
            except Unsupported as error:
                return self._unsupported(key.kind, error)
            except RemoteFailed as error:
                # Neither the entry's nor the peer's fault yet: the closure is sent again first.
                if isinstance(error, RequestRefused) and not refused:
                    return error
                if self._shipper.sender.faults.failed(key, error.kind) is Fault.OBJECT:
                    return parked(error.reason)
                if not error.is_local_limit:
                    turn.failed(error)
                return error
            turn.succeeded()
        self._shipper.sender.faults.taken(key)
        self._counters.sent(1, wanted.head.value_bytes)
        return SENT

    def _unsupported(self, kind: EntryKind, error: Unsupported) -> SendOutcome:
        """Park the entry, or skip it once it is certain that the peer has no such service."""
        return self._lacking(kind) if self._api.lacks(kind) else parked(error.reason)

    def _lacking(self, kind: EntryKind) -> SendOutcome:
        self._counters.unsupported[_SERVICES[kind]] += 1
        return skipped(f"the peer has no {_SERVICES[kind]}")


def stamp_to_send(entry: Entry, node_id: str) -> Stamp:
    """Return the stamp to send; the smallest for an entry from an upstream: any other wins."""
    return Stamp(PULLED_TICKS, node_id) if entry.stamp == NO_STAMP else entry.stamp
