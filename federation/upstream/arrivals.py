"""Notices when a blob that is being pulled is committed here by another write.

A client, a peer or another process on the data directory may write the blob while an upstream is
slow; readers then get it from storage. One number shows whether anything was committed, in any
process. Storage is asked only when that number moved, and only about blobs that readers have waited
for for a moment, so a pull that goes well costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import FederationError
from federation.core.store import LocalStore
from federation.core.tasks import Background

# A poll compares one number in memory; a reader waits this much longer at most.
_POLL_S = 0.1

OnArrival = Callable[[set[Digest]], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Wait:
    digests: Collection[Digest]
    on_arrival: OnArrival
    looked_at: int | None = None  # commits() when storage was asked; None: not yet


class Arrivals:
    """Watches storage for all pulls of one kind. Used from the event loop."""

    def __init__(self, local: LocalStore, clock: Clock) -> None:
        self._local = local
        self._clock = clock
        self._waits: set[_Wait] = set()
        self._watching: asyncio.Task[None] | None = None
        self._background = Background()

    def __repr__(self) -> str:
        return f"<Arrivals {len(self._waits)} waits>"

    @contextmanager
    def watching(self, digests: Collection[Digest], on_arrival: OnArrival) -> Iterator[None]:
        """While inside, call on_arrival with the digests that another write brought here.

        It may be called again with the same digests, and must not raise.
        """
        wait = _Wait(digests, on_arrival)
        self._waits.add(wait)
        # The task ends with the last wait, so that a node which pulls nothing polls nothing.
        if self._watching is None or self._watching.done():
            self._watching = self._background.start(self._watch(), "blobs from elsewhere")
        try:
            yield
        finally:
            self._waits.discard(wait)

    async def close(self) -> None:
        """Stop watching."""
        await self._background.close()

    async def _watch(self) -> None:
        while self._waits:
            waited = list(self._waits)
            await self._clock.sleep(_POLL_S)
            # Read before storage is asked: a commit in between makes the next poll ask again.
            commits = self._local.commits()
            due = [each for each in waited if each in self._waits and each.looked_at != commits]
            if due:
                await self._poll(due, commits)

    async def _poll(self, due: list[_Wait], commits: int) -> None:
        try:
            missing = await self._local.find_missing({d for each in due for d in each.digests})
        except FederationError:
            return  # storage does not answer now; the next poll may succeed
        for each in due:
            each.looked_at = commits
            came = {digest for digest in each.digests if digest not in missing}
            # The wait may have ended while storage was asked.
            if came and each in self._waits:
                await each.on_arrival(came)
