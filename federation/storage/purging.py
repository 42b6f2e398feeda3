"""Purges of an open data directory: federation.core.purges.Purges over the catalogue.

What is purged goes in the transaction that records it. A blob's file loses its name there and is
removed behind it, and so are damaged copies in quarantine/. Bytes inside the catalogue are
overwritten with zeros, since free pages would keep them, and the write-ahead log, which has old
pages, is emptied. Then the epoch moves, so that no process answers from memory, and running reads
of the blob end (storage/streaming.py).
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

import apsw
import structlog

from federation.core.digest import Digest
from federation.core.errors import FederationError, InvalidRequest
from federation.core.index import EntryKey
from federation.core.purges import BY_MAX_CHARS, Purge, Purgeable, PurgeOutcome, PurgePage
from federation.storage import quarantine
from federation.storage.catalogue import blobs, entries, hlc, keepings, lost, purges
from federation.storage.catalogue.blobs import key_of
from federation.storage.catalogue.transaction import Transaction
from federation.storage.context import StorageContext
from federation.storage.directory import DataDirectory
from federation.storage.emptied_log import empty_log
from federation.storage.publishing import discard, rename_stray

_AT_ONCE = 200  # records in one transaction, so that uploads do not wait long for the write lock
_LOGGED = 10  # names of a purge

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class CataloguePurges:
    """See federation.core.purges.Purges."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<CataloguePurges of {self._core.directory.root}>"

    async def purge(self, things: Sequence[tuple[Purgeable, str]], by: str) -> list[PurgeOutcome]:
        """See Purges."""
        for thing, _ in things:
            _check(thing)
        by = by[:BY_MAX_CHARS]
        outcomes: list[PurgeOutcome] = []
        for at in range(0, len(things), _AT_ONCE):
            part = things[at : at + _AT_ONCE]
            outcomes += await self._change(partial(_purge_all, part, by))
        first = [each.label or str(each.thing) for each in outcomes[:_LOGGED]]
        size_bytes = sum(each.size_bytes for each in outcomes)
        _log.warning("purged", count=len(outcomes), bytes=size_bytes, by=by, first=first)
        return outcomes

    async def apply(self, received: Sequence[Purge]) -> int:
        """See Purges. What is known already costs a look and no write."""
        for each in received:
            _check(each.thing)
        unknown = await self._core.look_up(lambda at: purges.unknown_of(at, received))
        if not unknown:
            return 0

        def work(purging: _Purging) -> int:
            for each in unknown:
                hlc.check(each.stamp, purging.transaction.wall_s, purging.transaction.drift_s)
            # Looked at again under the lock: another process may have taken a newer one meanwhile.
            newer = [each for each in unknown if purging.take(each)]
            for each in newer:
                purging.remove_older(each)
            return len(newer)

        return await self._change(work)

    async def drop(self, digests: Collection[Digest]) -> None:
        """Remove blobs without a record: for the cache of a site that does not hold them.

        Raises StorageFailed, StorageFull.
        """

        def work(purging: _Purging) -> None:
            for digest in digests:
                purging.drop(digest)

        await self._change(work)

    async def page(self, after: int, limit: int) -> PurgePage:
        """See Purges."""
        rows = await self._core.look_up(lambda at: purges.page(at, after, limit))
        return PurgePage([purge for _, purge in rows], rows[-1][0] if rows else after)

    async def blobs_among(self, digests: Collection[Digest]) -> set[Digest]:
        """See Purges."""
        by_key = {key_of(digest): digest for digest in digests}
        found = await self._core.look_up(lambda at: purges.blobs_among(at, by_key))
        self._core.note_purges_used(
            (purges.name_of_key(key), used_ms) for key, used_ms in found.items()
        )
        return {by_key[key] for key in found}

    async def entries_among(self, keys: Collection[EntryKey]) -> set[EntryKey]:
        """See Purges."""
        found = await self._core.look_up(lambda at: purges.entries_among(at, keys))
        self._core.note_purges_used(
            (purges.name_of(key), used_ms) for key, used_ms in found.items()
        )
        return set(found)

    async def _change(self, work: Callable[[_Purging], _T]) -> _T:
        core = self._core
        core.directory.volume.check_writable()

        def purge(transaction: Transaction) -> tuple[_T, _Purging]:
            with _overwriting(transaction.connection):
                purging = _Purging(transaction, core.directory, self._name_for)
                return work(purging), purging

        async def run() -> _T | FederationError:
            is_news = True  # unless a commit is known to have changed nothing
            try:
                result, purging = await core.writer.submit(purge)
                is_news = purging.has_changed
            except FederationError as error:
                return error
            finally:
                if is_news:
                    # Also after an error: whether the commit was done is not known then.
                    core.epoch.bump()
            # Behind the transaction: removing a large file takes long, and uploads wait for the
            # write lock.
            await core.writes.run(self._remove, purging.renamed)
            # Rows with bytes only: a file's bytes were never in the log.
            if purging.has_overwritten:
                await empty_log(core)
            return result

        # The work goes on if the caller is cancelled: every process has to learn of it.
        task: asyncio.Task[_T | FederationError] = core.background.start(run(), "purge")
        outcome = await asyncio.shield(task)
        if isinstance(outcome, FederationError):
            raise outcome
        return outcome

    def _name_for(self) -> str:
        """Return a path for a file that is about to be removed. What a crash leaves is swept."""
        name = f"{self._core.run.id}-purged-{next(self._numbers)}"
        return os.path.join(self._core.directory.incoming, name)

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            discard(self._core.directory, path)


class _Removed(NamedTuple):
    """What was removed."""

    size_bytes: int
    was_pinned: bool


class _Purging:
    """Purges within one transaction.

    Records come first, and what they remove after all of them: a record that does not fit undoes
    the transaction, and a file would have lost its name by then.
    """

    def __init__(
        self, transaction: Transaction, directory: DataDirectory, name_for: Callable[[], str]
    ) -> None:
        self.transaction = transaction
        self.renamed: list[str] = []  # files to remove behind the transaction
        self.has_changed = False
        self.has_overwritten = False  # rows with bytes of what was purged
        self._directory = directory
        self._name_for = name_for

    def record(self, thing: Purgeable, label: str, by: str) -> str:
        """Record that a name is purged now; return its label. Raises StorageFull."""
        transaction = self.transaction
        old = purges.get(transaction.connection, thing)
        held = None if isinstance(thing, Digest) else self._entry(thing)
        # Above both: a purge that is earlier than what it removes would let that come back from a
        # peer.
        above = max(old.stamp.ticks if old else 0, held.entry.stamp.ticks if held else 0)
        stamp = transaction.next_stamp(above)
        label = label or (held.entry.label if held else "")
        self._store(Purge(thing, stamp, label, by, transaction.wall_s))
        return label

    def take(self, purge: Purge) -> bool:
        """Take over a record if it is newer; return whether it is. Raises StorageFull."""
        old = purges.get(self.transaction.connection, purge.thing)
        if old is not None and old.stamp >= purge.stamp:
            return False
        self.transaction.observe(purge.stamp)
        self._store(purge)
        return True

    def _store(self, purge: Purge) -> None:
        purges.store(self.transaction, purge)
        self.has_changed = True

    def drop(self, digest: Digest) -> None:
        """Remove a blob, if it is held, and record nothing."""
        self.has_changed = self.remove(digest) is not None or self.has_changed

    def remove_older(self, purge: Purge) -> None:
        """Remove what a record purges, if that is held and not newer."""
        if purge.is_allowed:
            return
        held = None if isinstance(purge.thing, Digest) else self._entry(purge.thing)
        # A later value stays: it was pushed by somebody who knew, or after the purge.
        if held is None or held.entry.stamp < purge.stamp:
            self.remove(purge.thing)

    def _entry(self, key: EntryKey) -> entries.EntryRow | None:
        return entries.get(self.transaction.connection, [key])[0]

    def remove(self, thing: Purgeable) -> _Removed | None:
        """Remove what is held; return what that was, None if nothing is."""
        if isinstance(thing, Digest):
            return self._remove_blob(thing)
        held = self._entry(thing)
        if held is None:
            return None
        was_pinned = keepings.keeps_entry(self.transaction.connection, held.id)
        entries.remove(self.transaction, held)
        self.has_overwritten = True
        return _Removed(entries.size_of(held.entry.value, held.entry.label), was_pinned)

    def _remove_blob(self, digest: Digest) -> _Removed | None:
        key = key_of(digest)
        # Damaged copies, too: what was purged must be nowhere on this disk.
        quarantine.forget(self.transaction, self._directory, key)
        lost.forget(self.transaction, [key])
        row = blobs.look_up(self.transaction.connection, [key]).get(key)
        if row is None:
            return None
        was_pinned = keepings.keeps_blob(self.transaction.connection, key)
        blobs.delete(self.transaction, row)
        if row.inline:
            self.has_overwritten = True
        else:
            path = self._directory.blob_path(blobs.digest_of_key(key, row.size_bytes))
            target = self._name_for()
            if rename_stray(self.transaction, self._directory, path, key, target):
                self.renamed.append(target)
        return _Removed(row.size_bytes, was_pinned)


def _purge_all(
    things: Sequence[tuple[Purgeable, str]], by: str, purging: _Purging
) -> list[PurgeOutcome]:
    labelled = [(thing, purging.record(thing, label, by)) for thing, label in things]
    outcomes = []
    for thing, label in labelled:
        gone = purging.remove(thing)
        size_bytes, was_pinned = gone or _Removed(0, False)
        outcomes.append(PurgeOutcome(thing, label, size_bytes, gone is not None, was_pinned))
    return outcomes


@contextmanager
def _overwriting(connection: apsw.Connection) -> Iterator[None]:
    """Have deleted rows overwritten with zeros in the block."""
    connection.execute("PRAGMA secure_delete = ON").fetchall()
    try:
        yield
    finally:
        connection.execute("PRAGMA secure_delete = OFF").fetchall()


def _check(thing: Purgeable) -> None:
    if isinstance(thing, Digest) and thing.is_empty:
        raise InvalidRequest("the empty blob is always held; it cannot be purged")
