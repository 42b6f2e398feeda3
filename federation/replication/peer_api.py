"""What replication asks of a peer: remote_peer.py over the wire, simulations in memory.

Every method raises RemoteFailed for a call that fails.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from federation.core.digest import Digest, DigestFunction
from federation.core.errors import FederationError
from federation.core.index import Entry, EntryKind
from federation.core.pins import Pin
from federation.core.purges import Purge
from federation.core.store import Chunks
from federation.wire.node_identity import LogPosition

OpenAt = Callable[[int], AbstractAsyncContextManager[Chunks]]
Via = tuple[str, ...]  # ids of the nodes that an object passed before this one


class ObjectHistory(NamedTuple):
    """What a peer is told about an object that it is sent."""

    via: Via = ()
    unused_s: float = 0.0  # for how long no client has used it here; 0: it is new, or not known


class Identity(NamedTuple):
    """The node that answered last; empty: it is not a node of this project."""

    node_id: str = ""
    log: LogPosition | None = None


class Theirs(enum.Enum):
    """What a peer has under a name."""

    NOTHING = "nothing"  # or nothing that it would serve
    SAME = "same"  # as far as the protocol shows
    OTHER = "other"


class PeerApi(Protocol):
    """One peer."""

    @property
    def identity(self) -> Identity:
        """Who answered last. Cheap; known once any call was answered."""
        ...

    @property
    def batch_bytes(self) -> int:
        """The most bytes of blobs in one write_small. Cheap; known likewise."""
        ...

    def hashes_with(self, function: DigestFunction) -> bool:
        """Whether it may hold blobs under this function. Cheap; known likewise."""
        ...

    def lacks(self, kind: EntryKind) -> bool:
        """Whether it has no such service, by its capabilities or after several tries over minutes.

        A single Unsupported does not mean that: it may come from a proxy on the way. Cheap;
        forgotten after a while.
        """
        ...

    async def greet(self) -> None:
        """Ask who it is and what it can do."""
        ...

    async def meet(self) -> None:
        """Make sure that `identity` is that of the current connection. Raises nothing."""
        ...

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """Return those that it does not hold itself."""
        ...

    async def find_absent(self, digests: Collection[Digest]) -> set[Digest]:
        """Return those that it seems not to hold, by the cheapest question that it understands.

        One that is returned may be held. One that is not returned is held but for a chance of one
        in 2^128, and may be evicted at any moment: unlike find_missing, this is no lease.
        """
        ...

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], history: ObjectHistory
    ) -> list[FederationError | None]:
        """Send a batch; return for each None or why it was not taken.

        The history is that of all of them.
        """
        ...

    async def send(
        self, digest: Digest, open_at: OpenAt, history: ObjectHistory, *, goes_on: bool = False
    ) -> None:
        """Send one blob of any size; raises what open_at raises, too.

        goes_on: an earlier call broke off, and what the peer has of it need not be sent again.
        """
        ...

    async def push(self, entry: Entry, history: ObjectHistory, node_id: str) -> None:
        """Send an index entry with its stamp, under the instance name that it is to have there.

        Fails without sending when another node answers than the one of this id: what the entry
        names may not be there. An empty id is anybody's.
        """
        ...

    async def tell_purges(self, purges: Sequence[Purge]) -> None:
        """Have it take over records of what was purged, as far as their names exist there.

        Raises Unsupported where it does not know of purges.
        """
        ...

    async def tell_pins(self, pins: Sequence[Pin]) -> None:
        """Have it take over records of what is pinned, as far as their instances exist there.

        Raises Unsupported where it does not know of pins.
        """
        ...

    async def compare(self, entry: Entry) -> Theirs:
        """Compare what it has under the name of this entry."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...
