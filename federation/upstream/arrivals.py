"""Noticing that a blob which is being pulled has been committed here by somebody else.

A client, a peer or another process on the data directory may send it while an upstream is slow:
who waits for the upstream is then given what is here. That something was committed, in whatever
process, costs one look at a number to know; only then storage is asked, and only for what has been
waited for for a moment, so a pull that goes well costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import FederationError, SourceUnavailable
from federation.core.store import LocalStore, Readable
from federation.core.tasks import Background

_LOOK_EVERY_S = 0.1

OnArrival = Callable[[set[Digest]], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Wait:
    digests: Collection[Digest]
    on_arrival: OnArrival
    looked_at: int | None = None  # the commits that storage was asked at; None: not yet


class Arrivals:
    """One for all pulls of one kind. Used from the event loop."""

    def __init__(self, local: LocalStore, clock: Clock) -> None:
        self._local = local
        self._clock = clock
        self._waits: set[_Wait] = set()
        self._watching: asyncio.Task[None] | None = None
        self._background = Background()

    def __repr__(self) -> str:
        return f"<Arrivals {len(self._waits)} waits>"

    @contextmanager
    def told(self, digests: Collection[Digest], on_arrival: OnArrival) -> Iterator[None]:
        """Have on_arrival called, inside, with those that are here though nobody pulled them.

        It may be called again with the same, and must not raise.
        """
        wait = _Wait(digests, on_arrival)
        self._waits.add(wait)
        if self._watching is None or self._watching.done():
            self._watching = self._background.start(self._watch(), "blobs from elsewhere")
        try:
            yield
        finally:
            self._waits.discard(wait)

    async def close(self) -> None:
        """Look no more."""
        await self._background.close()

    async def _watch(self) -> None:
        while self._waits:
            waited = list(self._waits)
            await self._clock.sleep(_LOOK_EVERY_S)
            commits = self._local.commits()
            due = [each for each in waited if each in self._waits and each.looked_at != commits]
            if due:
                await self._look(due, commits)

    async def _look(self, due: list[_Wait], commits: int) -> None:
        try:
            missing = await self._local.find_missing({d for each in due for d in each.digests})
        except FederationError:
            return  # storage cannot tell now; the next look may
        for each in due:
            each.looked_at = commits
            came = {digest for digest in each.digests if digest not in missing}
            if came and each in self._waits:
                await each.on_arrival(came)


async def is_same(
    local: Readable,
    digest: Digest,
    end: int,
    came: Callable[[int, int], Awaitable[bytes | None]],
) -> bool:
    """Whether what an upstream sent of a blob up to end is what storage has.

    came(offset, size_bytes): some of what was sent. Raises what reading either raises, and
    SourceUnavailable where what was sent is gone.
    """
    at = 0
    async with local.open_read(digest, limit=end) as chunks:
        async for chunk in chunks:
            view = memoryview(chunk)
            while view:
                part = await came(at, len(view))
                if not part:
                    raise SourceUnavailable("pull", "what came is gone")
                if part != view[: len(part)]:
                    return False
                at, view = at + len(part), view[len(part) :]
    return True
