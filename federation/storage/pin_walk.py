"""Keeps one entry, or blob, for one pin: the entry and everything that it names.

The walk through the closure is given from outside. It asks a store which of many blobs are missing,
and reads those that name others; the store that it gets here keeps what it is asked about, fetches
what is missing, and says that nothing is, so that the walk goes on past holes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic

from federation.core.digest import Digest
from federation.core.pins import ClosureWalk, FetchBlobs, KeptState
from federation.core.store import Chunks, NextBytes, Readable
from federation.core.uses import Peek
from federation.storage.catalogue.blobs import key_of
from federation.storage.pin_tables import E, Keeping, Keepings

_KEPT_AT_ONCE = 500  # blobs in one transaction, so that uploads do not wait long for the write lock
_MISSING_MAX = 10_000  # of one entry; more are not counted


class _TooMuch(Exception):
    """Pins would take more than they may."""


class PinWalker(Generic[E]):
    """Walks for one storage."""

    def __init__(
        self,
        keepings: Keepings[E],
        store: Readable,
        walk: ClosureWalk,
        fetch: FetchBlobs | None = None,
    ) -> None:
        """fetch: brings missing blobs; None: they stay missing."""
        self._keepings = keepings
        self._store = Peek(store)
        self._walk = walk
        self._fetch = fetch

    def __repr__(self) -> str:
        return f"<PinWalker in {self._store!r}>"

    async def keep(self, pin_id: int, entry: E) -> KeptState | None:
        """Keep an entry as it is now; return what became of it, None if it or the pin is gone.

        What is kept already costs look-ups alone. Raises SourceUnavailable, StorageFull,
        StorageFailed.
        """
        most = self._keepings.max_bytes()
        # A look first: most entries that are met again are kept already, and need no transaction.
        keeping, does_fit = await self._keepings.known(pin_id, entry), True
        if keeping is None:
            keeping, does_fit = await self._keepings.begin(pin_id, entry, most)
        if keeping is None:
            return None
        store = _KeepingStore(self._keepings, self._store, keeping, self._fetch, most)
        is_walked = False
        if does_fit:
            try:
                is_walked = await self._walk_entry(store, entry)
            except _TooMuch:
                does_fit = False
        if not does_fit:
            await self._keepings.leave_out(keeping)
            return KeptState.LEFT_OUT
        return await self._settle(keeping, len(store.missing), is_walked=is_walked)

    async def keep_blob(self, pin_id: int, digest: Digest) -> KeptState | None:
        """Keep one blob; return what became of it, None if the pin is gone. Raises as keep()."""
        most = self._keepings.max_bytes()
        keeping, _ = await self._keepings.begin(pin_id, None, most)
        if keeping is None:
            return None
        store = _KeepingStore(self._keepings, self._store, keeping, self._fetch, most)
        try:
            await store.find_missing([digest])
        except _TooMuch:
            await self._keepings.leave_out(keeping)
            return KeptState.LEFT_OUT
        return await self._settle(keeping, len(store.missing), is_walked=True)

    async def _walk_entry(self, store: _KeepingStore[E], named: E) -> bool:
        entry = await self._keepings.entry(named)
        return entry is not None and await self._walk(store, entry)

    async def _settle(self, keeping: Keeping[E], missing: int, *, is_walked: bool) -> KeptState:
        is_whole = is_walked and not missing
        state = KeptState.WHOLE if is_whole else KeptState.INCOMPLETE
        # Nothing changes for most entries that are looked at again, so nothing is written.
        if not is_whole or keeping.state != state:  # a row's state is a plain number
            await self._keepings.settle(keeping, missing, is_whole=is_whole)
        return state


class _KeepingStore(Generic[E]):
    """See federation.core.store.Readable, and the module's docstring."""

    def __init__(
        self,
        keepings: Keepings[E],
        store: Readable,
        keeping: Keeping[E],
        fetch: FetchBlobs | None,
        max_bytes: int,
    ) -> None:
        self._keepings = keepings
        self._store = store
        self._keeping = keeping
        self._fetch = fetch
        self._max_bytes = max_bytes
        self.missing: set[bytes] = set()

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """Keep what is here of these; return none. Raises _TooMuch."""
        keys = {key_of(digest): digest for digest in digests if not digest.is_empty}
        free, missing = await self._keepings.look(list(keys))
        if missing and self._fetch is not None:
            # Looked up again: what came is kept now, and is leased until then.
            await self._fetch([keys[key] for key in missing])
            free, missing = await self._keepings.look(list(keys))
        self._note_missing(missing)
        for at in range(0, len(free), _KEPT_AT_ONCE):
            part = free[at : at + _KEPT_AT_ONCE]
            now = await self._keepings.keep(self._keeping, part, self._max_bytes)
            if not now.does_fit:
                raise _TooMuch
            self._note_missing(now.missing)
        return set()

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """Keep and return them; one that is missing is empty, and so names nothing."""
        await self.find_missing(digests)
        found = await self._store.read_small(digests)
        self._note_missing(
            [key_of(digest) for digest, data in zip(digests, found, strict=True) if data is None]
        )
        return [data or b"" for data in found]

    def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AbstractAsyncContextManager[Chunks]:
        """See Readable. One that is missing is empty here, too."""
        if key_of(digest) in self.missing:
            return _no_bytes()
        return self._store.open_read(digest, offset=offset, limit=limit, next_bytes=next_bytes)

    def _note_missing(self, keys: Sequence[bytes]) -> None:
        self.missing.update(keys[: _MISSING_MAX - len(self.missing)])


@asynccontextmanager
async def _no_bytes() -> AsyncIterator[Chunks]:
    async def empty() -> Chunks:
        yield b""

    yield empty()
