"""Sending the closure of an entry, by a walk over a store that sends what it is asked about.

The walk asks whether blobs are held, and reads directories. This store sends each blob to the peer
before it answers, so a walk that finds everything means that the peer holds the whole closure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from federation.core.digest import Digest
from federation.core.errors import BlobNotFound
from federation.core.index import Entry
from federation.core.purges import Purged, nothing_purged
from federation.core.store import SMALL_BLOB_BYTES, Chunks, NextBytes, Readable
from federation.replication.outcomes import GONE, Fate, SendOutcome, parked, skipped
from federation.replication.peer_api import ObjectHistory
from federation.replication.rules import Bounds
from federation.replication.shipping import Shipper

INCOMPLETE = skipped("not all that it names is here")
LEFT_OUT = skipped("a rule leaves out a blob that it needs and the peer lacks")

# Returns whether all that an entry names is in the store; raises FederationError when it cannot be
# read or is beyond what is walked.
Walk = Callable[[Readable, Entry], Awaitable[bool]]


class ShippingStore:
    """A Readable (federation.core.store) for one walk."""

    def __init__(
        self,
        store: Readable,
        shipper: Shipper,
        history: ObjectHistory,
        bounds: Bounds,
        for_large: Callable[[], AbstractAsyncContextManager[None]],
        not_needed: Purged = nothing_purged,
    ) -> None:
        """for_large: a context that is entered while large blobs are sent.

        not_needed: returns those of missing blobs that the peer does without.
        """
        self._not_needed = not_needed
        self._store = store
        self._shipper = shipper
        self._history = history
        self._bounds = bounds
        self._for_large = for_large
        self.lacks_here: Digest | None = None  # missing here; a later upload may bring it
        self.unsent: tuple[Digest, SendOutcome] | None = None

    def __repr__(self) -> str:
        return f"<ShippingStore over {self._store!r}>"

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """Send what is held here; return what is missing here or was not taken by the peer."""
        missing = await self._store.find_missing(digests)
        if missing and (purged := await self._not_needed(missing)):
            missing = missing - purged
            digests = set(digests) - purged
        if missing:
            # The least one: a set has no fixed order, and simulations have to be replayed.
            self.lacks_here = min(missing)
            return missing
        # The peer gets files from elsewhere; directories are still sent, as the walk reads them.
        if self._bounds.metadata_only:
            return set()
        return await self._ship(digests)

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """Read directories and trees here, and send them."""
        found = await self._store.read_small(digests)
        held = [d for d, data in zip(digests, found, strict=True) if data is not None]
        # Nothing is sent for an entry that is not whole here: the walk ends anyway.
        if len(held) < len(found):
            self.lacks_here = next(
                d for d, data in zip(digests, found, strict=True) if data is None
            )
            return found
        missing = await self._ship(held)
        return [None if d in missing else data for d, data in zip(digests, found, strict=True)]

    @asynccontextmanager
    async def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AsyncIterator[Chunks]:
        """Read a large tree here, and send it."""
        # Sent before it is read: a walk that has seen all of it may end at once.
        if await self._ship([digest]):
            raise BlobNotFound(digest)
        reading = self._store.open_read(digest, offset=offset, limit=limit, next_bytes=next_bytes)
        async with reading as chunks:
            yield chunks

    def why_open(self, *, skips: bool) -> SendOutcome:
        """Return what becomes of the entry after a walk that did not end well.

        skips: skip, rather than park, an entry that names something which is not here.
        """
        if self.unsent is not None:
            digest, outcome = self.unsent
            return parked(f"it needs blob {digest}: {outcome.reason}")
        if self.lacks_here is None:
            return LEFT_OUT
        if skips:
            return INCOMPLETE
        return parked(f"it needs blob {self.lacks_here}, which is not here")

    async def _ship(self, digests: Iterable[Digest]) -> set[Digest]:
        """Send these; return those that the peer lacks afterwards."""
        ordered = sorted(digests)  # a fixed order, so that simulations can be replayed
        wanted = [digest for digest in ordered if self._bounds.admit(digest)]
        small = [digest for digest in wanted if digest.size_bytes <= SMALL_BLOB_BYTES]
        outcomes = await self._shipper.ship(small, self._history)
        if len(small) < len(wanted):
            # Small ones first, so that the walk gives its turn away only for large blobs.
            async with self._for_large():
                large = [digest for digest in wanted if digest.size_bytes > SMALL_BLOB_BYTES]
                outcomes |= await self._shipper.ship(large, self._history)
        missing: set[Digest] = set()
        for digest, outcome in outcomes.items():
            if outcome.is_there:
                continue
            missing.add(digest)
            # Evicted after the look-up above: the entry has a hole here, like one that never was
            # whole.
            if outcome is GONE:
                self.lacks_here = digest
            elif outcome.fate in {Fate.PARKED, Fate.SKIPPED}:
                self.unsent = (digest, outcome)
        # What the rule does not send may have come to the peer another way.
        others = [digest for digest in ordered if not self._bounds.admit(digest)]
        return missing | await self._shipper.lacking(others)
