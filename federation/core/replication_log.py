"""The contract between replication and the storage whose change log it sends to peers.

Everything durable about replication is behind ReplicationLog: the change log, how far each peer has
acknowledged it, what was parked, and the order in which all that is held can be gone through.
Storage implements it over the catalogue; tests have one in memory.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from federation.core.digest import Digest
from federation.core.index import Entry, EntryKey
from federation.core.pins import Pins
from federation.core.provenance import Source
from federation.core.purges import Purges


class LogRow(NamedTuple):
    """One accepted object: a blob (digest) or an index entry (key); never both."""

    seq: int
    digest: Digest | None
    key: EntryKey | None
    size_bytes: int
    stored_at_s: float  # wall clock
    source: Source
    via: tuple[str, ...]  # ids of the nodes it passed on its way here, oldest first
    origin: str  # see Provenance
    total_bytes: int  # sizes of all rows ever logged up to and with this one


class LogSlice(NamedTuple):
    """Rows in order of seq."""

    rows: Sequence[LogRow]
    is_whole: bool  # False: rows after the one asked for are gone, trimmed before anybody read them


class Lane(enum.StrEnum):
    """A peer's rules may hold objects back until its window opens: those go by a lane apart."""

    ALWAYS = "always"
    WINDOW = "window"


class PeerState(enum.StrEnum):
    """How a peer is brought up to date."""

    FOLLOWING = "following"  # it gets what the change log says
    NEEDS_RESYNC = "needs-resync"  # the log alone does not do: all that is held is offered to it


class PeerRecord(NamedTuple):
    """What is remembered of one lane to a peer; (name, lane) is its key."""

    name: str  # as in the configuration
    lane: Lane = Lane.ALWAYS
    cursor: int = 0  # every row up to this one was acknowledged, skipped by a rule, or parked
    state: PeerState = PeerState.NEEDS_RESYNC
    reason: str = "new"  # why it needs a resync, for people; empty while following
    position: str = ""  # of its reconcile, in ReplicationLog.blobs or entries; empty: not begun
    node_id: str = ""  # of the peer as last met; empty: not met, or no node of ours
    log_seen: str = ""  # the change log position the peer last announced, as it sent it
    wanted: int = 0  # counts the requests of `federation reconcile`
    served: int = 0  # how many of these were done
    sent_objects: int = 0  # over all time
    sent_bytes: int = 0
    last_success_s: float = 0.0  # wall clock; 0: never
    last_error: str = ""
    last_error_s: float = 0.0
    pins_pulled: bool = False  # whether it is to get what came from upstreams, too
    marks: int = 0  # counts how often storage marked it NEEDS_RESYNC: see ReplicationLog.save
    holds: bool = True  # whether what is beyond the cursor is kept from eviction
    purges: int = 0  # every record of a purge up to this number was told (Purges.page)


class Parked(NamedTuple):
    """An object that a peer will not take, or that is not fit to be sent."""

    peer: str
    seq: int  # of its log row; 0: found by a reconcile
    digest: Digest | None
    key: EntryKey | None
    label: str  # for people: the URI, the action's digest, or the blob's
    reason: str
    parked_at_s: float  # wall clock
    tries: int = 1
    retry: bool = False  # asked for by `federation parked retry`


class EntryHead(NamedTuple):
    """An index entry as of now without its value, which may be megabytes long."""

    seq: int  # of its newest row
    key: EntryKey
    label: str
    value_bytes: int
    expires_at_s: float | None  # wall clock; None: never
    source: Source


class Page(NamedTuple):
    """A part of all that is held, and where the next part begins; None: this was the last."""

    digests: Sequence[Digest]
    entries: Sequence[Entry]
    next: str | None
    pulled: Collection[Digest] = frozenset()  # those of digests that only an upstream gave us
    # For how long no client has used each of digests, or of entries; empty: that is not known.
    unused_s: Sequence[float] = ()


class ReplicationLog(Protocol):
    """All methods are safe to call concurrently and to cancel.

    They raise SourceUnavailable when the catalogue cannot be read, StorageFailed or StorageFull
    when it cannot be written.
    """

    @property
    def node_id(self) -> str:
        """Of this node."""
        ...

    @property
    def purges(self) -> Purges:
        """What was purged here, and by other nodes."""
        ...

    @property
    def pins(self) -> Pins:
        """What is pinned here."""
        ...

    @property
    def log_epoch(self) -> str:
        """The name of this change log: another one when it was begun anew, by `rebuild`.

        1 to 64 letters, digits, - and _: peers are told it, see federation/wire/node_identity.py.
        """
        ...

    def try_to_lead(self) -> bool:
        """Become the one process on this storage that replicates.

        False: another is it, or it is not known yet whether one is: ask again a second later.
        Kept until close(), until this process ends in whatever way, or until it is lost: where the
        catalogue is a server, a process that it has not heard from for a while is overtaken. Then
        save, park and unpark raise LeadLost, and this may be called again. Cheap, never blocks.
        """
        ...

    def holds_lead(self) -> bool:
        """Whether this process leads, as far as it knows. Cheap, never blocks."""
        ...

    def head(self) -> int:
        """Return the newest row's seq. Cheap, no I/O.

        What this process committed is in it at once, what others did after 100 ms at most.
        """
        ...

    async def wait_beyond(self, seq: int, timeout_s: float) -> bool:
        """Wait until head() is beyond seq; False after timeout_s."""
        ...

    async def read(self, after: int, limit: int) -> LogSlice:
        """Return up to limit rows with seq > after; not whole also where after is beyond head()."""
        ...

    async def total_bytes(self, seq: int) -> int:
        """Return LogRow.total_bytes of the newest row that is not beyond seq; 0 for none.

        For rows that were trimmed: that of the oldest row there is, less its size.
        """
        ...

    async def peers(self) -> list[PeerRecord]:
        """Return every record, those of peers that left the configuration too.

        One whose cursor is beyond head() is returned as NEEDS_RESYNC.
        """
        ...

    async def save(self, records: Sequence[PeerRecord]) -> None:
        """Store records in one durable step. `wanted` is not written: see want().

        Nor is `marks`: storage counts it up when it marks a record NEEDS_RESYNC (no room left for
        what is pinned, a trimmed log). Of a record with fewer marks than are stored, the writer did
        not know yet: its state, reason, position and holds are not written either. One that is
        FOLLOWING holds from then on, whatever it says.
        """
        ...

    async def want(self, name: str) -> None:
        """Ask for a reconcile of a peer: adds one to `wanted` of its records."""
        ...

    async def drop(self, name: str) -> None:
        """Forget a peer: its records and what was parked for it."""
        ...

    def note_acknowledged(self, name: str, lane: Lane, seq: int) -> None:
        """Say at once, before it is durable, that a peer has every row up to seq."""
        ...

    def note_unacknowledged(self, name: str) -> None:
        """Say at once that it is not known what a peer has: it is compared with all that is held.

        Until the next note_acknowledged nobody who waits for this peer is told that it has a row.
        """
        ...

    async def park(self, rows: Sequence[Parked]) -> None:
        """Remember objects as parked, in one durable step.

        Of one that is parked already, seq, reason and time are replaced, its tries are counted up,
        and it is not asked for any more.
        """
        ...

    async def parked(self, name: str | None = None, limit: int = 1000) -> list[Parked]:
        """Return what is parked, oldest first; for all peers when name is None."""
        ...

    async def parked_due(
        self, name: str, now_s: float, waits_s: Sequence[float], limit: int
    ) -> list[Parked]:
        """Return what is parked for a peer and to be tried again by now (wall clock).

        What was asked for comes first, then whatever was tried longest ago. waits_s[i]: how long
        is waited after i + 1 tries, the last one for all further ones; a try in the future, by a
        clock that was set back, holds nothing up.
        """
        ...

    async def parked_counts(self) -> dict[str, int]:
        """Return how many objects are parked per peer; a peer without any is not in it."""
        ...

    async def unpark(self, rows: Sequence[Parked]) -> None:
        """Forget these."""
        ...

    async def ask_retry(self, name: str | None = None) -> int:
        """Mark what is parked (for one peer, or all) to be tried again; return how many."""
        ...

    async def entries_at(self, keys: Sequence[EntryKey]) -> list[tuple[int, Entry] | None]:
        """Return (seq of its newest row, entry) of each; None where there is none now.

        Unlike Index.get, this is no use of the entry: it does not renew its access time.
        """
        ...

    async def heads_at(self, keys: Sequence[EntryKey]) -> list[EntryHead | None]:
        """Return the same of each without its value."""
        ...

    async def blobs(self, position: str | None, limit: int) -> Page:
        """Go through all blobs held, roughly the most recently used first; None: begin.

        A walk from None to the end visits every blob held throughout it. Not a use of them.
        """
        ...

    async def entries(self, position: str | None, limit: int) -> Page:
        """Go through all index entries held, likewise."""
        ...

    async def held(self) -> tuple[int, int]:
        """Return how many blobs and how many index entries are held."""
        ...

    async def held_like(self, names: Sequence[bytes]) -> set[bytes]:
        """Return those of these names under which a blob is held.

        A name is the number of the digest function in one byte and the beginning of the hash; a
        blob whose file is not as it should be is not held. Neither a use nor a lease.
        """
        ...

    async def is_damaged(self, digest: Digest) -> bool:
        """Whether the blob was here and was set aside because its bytes had changed."""
        ...
