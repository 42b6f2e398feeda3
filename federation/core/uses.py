"""What a look-up in the storage counts as: a use by a client, a lease only, or nothing.

Three facts are kept of each object: when a client last used it, which orders eviction; until when
it is leased, which only protects it; and that internal reads leave no trace. Who is asking travels
with the task, as the hops of a request do: a client unless somebody says otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar

from federation.core.digest import Digest
from federation.core.store import Chunks, NextBytes, Readable


class Use(enum.IntEnum):
    """The effect of a look-up on an object; each includes those before it."""

    PEEK = 0  # nothing: replication's, scrub's and prefetch's own looks; what is held is no promise
    LEASE = 1  # it stays for a lease period: what a peer that replicates is told to be held
    CLIENT = 2  # it was used, and moves to the end of the order of eviction


# A client by default: a look that forgets to say so protects too much, not too little.
_current: ContextVar[Use] = ContextVar("federation_use", default=Use.CLIENT)


def current() -> Use:
    """Return what look-ups of the current task count as."""
    return _current.get()


@contextmanager
def counted_as(use: Use) -> Iterator[None]:
    """Set it for all calls made inside, including those of tasks started there."""
    token = _current.set(use)
    try:
        yield
    finally:
        _current.reset(token)


class Peek:
    """A Readable that leaves no trace in the store behind it: no use, no lease."""

    def __init__(self, store: Readable) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<Peek into {self._store!r}>"

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """See Readable; what is held may be evicted at any moment."""
        with counted_as(Use.PEEK):
            return await self._store.find_missing(digests)

    def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AbstractAsyncContextManager[Chunks]:
        """See Readable."""
        with counted_as(Use.PEEK):
            # Stores take the use from this call: what it returns is entered behind the block.
            return self._store.open_read(digest, offset=offset, limit=limit, next_bytes=next_bytes)

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """See Readable."""
        with counted_as(Use.PEEK):
            return await self._store.read_small(digests)
