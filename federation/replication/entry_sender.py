"""Index entries to one peer: each behind all that it names, as it is now, the newest last."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from federation.core.clock import Clock
from federation.core.errors import FederationError, SourceUnavailable, StorageFailed
from federation.core.replication_log import ReplicationLog
from federation.core.store import (
    NO_STAMP,
    PULLED_TICKS,
    Entry,
    EntryKey,
    EntryKind,
    Readable,
    Stamp,
)
from federation.remote.failures import Denied, RemoteFailed, RequestRefused, Unsupported
from federation.replication.blame import Fault
from federation.replication.closure_sender import ShippingStore, Walk
from federation.replication.counters import PeerCounters
from federation.replication.gate import Gate
from federation.replication.outcome import (
    PRESENT,
    SENT,
    SUPERSEDED,
    TOO_FAR,
    SendOutcome,
    parked,
    skipped,
)
from federation.replication.peer_api import PeerApi, Theirs, Via
from federation.replication.rules import Bounds, may_go_on
from federation.replication.shipping import Shipper

WALKS_AT_ONCE = 16
WALKS_BEGUN_MAX = 64  # those that wait for a large blob included
_HOLE_DELAYS_S = (0.2, 0.5, 1.0, 2.0)
_AGAIN_FIRST_S, _AGAIN_MAX_S = 1.0, 60.0

EXPIRED = skipped("expired")
INCOMPLETE = skipped("not all that it names is here")
LEFT_OUT = skipped("a rule leaves out a blob that it needs and the peer lacks")
_SERVICES = {
    EntryKind.ACTION_RESULT: "ActionCache",
    EntryKind.ASSET_BLOB: "Remote Asset",
    EntryKind.ASSET_DIRECTORY: "Remote Asset",
}


class Hole(enum.Enum):
    """What to do about an entry that names something which is not here."""

    WAIT = "wait"  # a client pushes names and blobs in any order; park it in the end
    PARK = "park"
    SKIP = "skip"  # it is hidden here, too, and sent when it is pushed again


class EntryToSend(NamedTuple):
    """An entry to be sent."""

    seq: int  # of its newest row when it was read
    entry: Entry
    via: Via
    bounds: Bounds = Bounds()
    hole: Hole = Hole.WAIT
    looks: bool = False  # see first what the peer has under this name
    keeps_theirs: bool = False  # then leave it, even if it is another value


class _Name:
    """Who sends one name, and what was sent of it while anybody did."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
        self.newest_seq = 0


class EntrySender:
    """Sends to one peer from here."""

    def __init__(
        self,
        store: Readable,
        ledger: ReplicationLog,
        target: PeerApi,
        gate: Gate,
        shipper: Shipper,
        walk: Walk,
        tally: PeerCounters,
        clock: Clock,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._target = target
        self._gate = gate
        self._shipper = shipper
        self._walk = walk
        self._tally = tally
        self._clock = clock
        self._names: dict[EntryKey, _Name] = {}
        self._begun = asyncio.Semaphore(WALKS_BEGUN_MAX)
        self._walking = asyncio.Semaphore(WALKS_AT_ONCE)

    def __repr__(self) -> str:
        return f"<EntrySender {len(self._names)} names>"

    @asynccontextmanager
    async def reading(
        self, keys: Sequence[EntryKey]
    ) -> AsyncIterator[list[tuple[int, Entry] | None]]:
        """Give the entries of these names as they are now, to be sent within.

        What was read first and is sent last must not undo a newer value at a peer that knows
        nothing of stamps; so as long as anybody has a name's entry in hand, it is remembered which
        one was sent.
        """
        for key in keys:
            self._names.setdefault(key, _Name()).users += 1
        try:
            yield await self._ledger.entries_at(keys)
        finally:
            for key in keys:
                name = self._names[key]
                name.users -= 1
                if not name.users:
                    del self._names[key]

    async def send(self, wanted: EntryToSend) -> SendOutcome:
        """Bring one entry to its end; call it within reading().

        Raises what the store and the ledger raise when they cannot tell.
        """
        if (outcome := self._against(wanted)) is not None:
            return outcome
        try:
            if wanted.looks and await self._is_settled(wanted):
                return PRESENT
        except Unsupported as error:
            return self._unsupported(wanted.entry.key.kind, error)
        node_id = self._target.identity.node_id
        if (outcome := await self._closed(wanted)) is not None:
            return outcome
        return await self._push_in_order(wanted, node_id)

    def _against(self, wanted: EntryToSend) -> SendOutcome | None:
        """Return why an entry is not sent, whatever the peer has."""
        entry = wanted.entry
        if not may_go_on(wanted.via):
            return TOO_FAR
        if entry.expires_at_s is not None and entry.expires_at_s <= self._clock.wall_s():
            return EXPIRED
        if self._target.lacks(entry.key.kind):
            return self._lacking(entry.key.kind)
        return None

    async def _is_settled(self, wanted: EntryToSend) -> bool:
        """Whether the peer has this entry, or another that is to stay."""
        confirmed, this_one = self._shipper.confirmed, (wanted.entry.key, wanted.seq)
        keeps_theirs = wanted.keeps_theirs or this_one in confirmed  # then theirs is newer
        confirmed.discard(this_one)
        theirs = await self._look(wanted.entry)
        return theirs is Theirs.SAME or (theirs is Theirs.OTHER and keeps_theirs)

    async def _look(self, entry: Entry) -> Theirs:
        """Look until there is an answer; one who does not let us look may have anything.

        Raises Unsupported: what is there stays unknown.
        """

        async def look() -> Theirs | Unsupported:
            try:
                return await self._target.look(entry)
            except (RequestRefused, Denied):
                return Theirs.OTHER
            except Unsupported as error:
                return error

        theirs = await self._shipper.sender.asker.answer(look)
        if isinstance(theirs, Unsupported):
            raise theirs
        return theirs

    async def _push_in_order(self, wanted: EntryToSend, node_id: str) -> SendOutcome:
        entry = wanted.entry
        name = self._names[entry.key]
        confirmed, this_one = self._shipper.confirmed, (entry.key, wanted.seq)
        async with name.lock:
            if name.newest_seq > wanted.seq:
                return SUPERSEDED
            if this_one in confirmed:
                return PRESENT
            outcome = await self._push(wanted, node_id)
            if outcome.is_there:
                name.newest_seq = wanted.seq
                confirmed.add(this_one)
        return outcome

    # What it names

    async def _closed(self, wanted: EntryToSend, *, anew: bool = False) -> SendOutcome | None:
        """Bring all that it names there; None: it is there, and the entry may follow."""
        for delay_s in (*(_HOLE_DELAYS_S if wanted.hole is Hole.WAIT else ()), None):
            view = ShippingStore(
                self._store, self._shipper, wanted.via, wanted.bounds, self._for_large
            )
            if anew:
                self._shipper.confirmed.clear()
            try:
                async with self._begun, self._walking:
                    if await self._walk(view, wanted.entry):
                        return None
            except (SourceUnavailable, StorageFailed):
                raise
            except FederationError as error:
                return parked(str(error))
            if view.lacks_here is None or delay_s is None:
                break
            await self._clock.sleep(delay_s)
            if await self._is_old(wanted):
                return SUPERSEDED
        return _why_open(view, wanted.hole)

    @asynccontextmanager
    async def _for_large(self) -> AsyncIterator[None]:
        """Let another walk go on while this one waits for a large blob to be sent."""
        self._walking.release()
        try:
            yield
        finally:
            await self._walking.acquire()

    async def _is_old(self, wanted: EntryToSend) -> bool:
        (now,) = await self._ledger.entries_at([wanted.entry.key])
        return now is None or now[0] > wanted.seq

    # The entry

    async def _push(self, wanted: EntryToSend, node_id: str) -> SendOutcome:
        """Push until it is taken, or is not to be any more; node_id: who has all that it names."""
        delay_s, refused = 0.0, False
        while True:
            result = await self._try_push(wanted, node_id, refused=refused)
            if isinstance(result, SendOutcome):
                return result
            # Perhaps it is refused for something that it names, and the peer has lost.
            anew = isinstance(result, RequestRefused) and not refused
            refused = refused or anew
            if not anew:
                await self._shipper.sender.asker.bear(result)
                if self._gate.is_open:
                    delay_s = min(_AGAIN_MAX_S, max(_AGAIN_FIRST_S, delay_s * 2))
                    await self._clock.sleep(delay_s)
            if await self._is_old(wanted):
                return SUPERSEDED
            node_id = self._target.identity.node_id
            if (outcome := await self._closed(wanted, anew=anew)) is not None:
                return outcome  # whoever answers by now may lack what was there

    async def _try_push(
        self, wanted: EntryToSend, node_id: str, *, refused: bool
    ) -> SendOutcome | RemoteFailed:
        """Push once; refused: it was before, and is not given a third time."""
        entry = wanted.entry
        async with self._gate.turn(writes=True) as turn:
            await self._gate.courtesy.turn()
            try:
                stamped = entry._replace(stamp=stamp_to_send(entry, self._ledger.node_id))
                await self._target.push(stamped, wanted.via, node_id)
            except Unsupported as error:
                return self._unsupported(entry.key.kind, error)
            except RemoteFailed as error:
                if isinstance(error, RequestRefused) and not refused:
                    return error
                if self._shipper.sender.blame.failed(entry.key, error.kind) is Fault.OBJECT:
                    return parked(error.reason)
                if not error.is_ours:
                    turn.failed(error)
                return error
            turn.succeeded()
        self._shipper.sender.blame.taken(entry.key)
        self._tally.sent(1, len(entry.value))
        return SENT

    def _unsupported(self, kind: EntryKind, error: Unsupported) -> SendOutcome:
        """Set it aside, unless it is sure by now that the peer has no such service."""
        return self._lacking(kind) if self._target.lacks(kind) else parked(error.reason)

    def _lacking(self, kind: EntryKind) -> SendOutcome:
        self._tally.unsupported[_SERVICES[kind]] += 1
        return skipped(f"the peer has no {_SERVICES[kind]}")


def stamp_to_send(entry: Entry, node_id: str) -> Stamp:
    """Return what dates an entry at a peer. What an upstream gave here gives way to all else."""
    return Stamp(PULLED_TICKS, node_id) if entry.stamp == NO_STAMP else entry.stamp


def _why_open(view: ShippingStore, hole: Hole) -> SendOutcome:
    """Return what is to become of an entry that cannot be sent with all that it names."""
    if view.unsent is not None:
        digest, outcome = view.unsent
        return parked(f"it needs blob {digest}: {outcome.reason}")
    if view.lacks_here is None:
        return LEFT_OUT
    if hole is Hole.SKIP:
        return INCOMPLETE
    return parked(f"it needs blob {view.lacks_here}, which is not here")
