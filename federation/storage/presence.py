"""Which blobs are held: answered by one catalogue look-up, or from a cache of recent answers.

Answering that a blob is held gives a lease on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Set
from functools import partial
from operator import attrgetter
from typing import TypeVar

import structlog

from federation.core import uses
from federation.core.digest import Digest, DigestFunction, digest_of, hash_bytes
from federation.core.store import DigestCodec
from federation.core.uses import Use
from federation.observability.rate_limits import Complaints
from federation.storage.blob_files import Damage
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import purges
from federation.storage.catalogue.blobs import (
    digest_of_key,
    key_of,
    keys_of,
    keys_of_hashes,
)
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.context import StorageContext, UsedPurge
from federation.storage.existence_cache import ExistenceCache
from federation.storage.presence_rows import (
    PresenceFound,
    PresenceQuestion,
    damage_of,
    find,
    find_few,
)

_N = TypeVar("_N")  # how the caller names a blob: a Digest, or its encoded form
_size: Callable[[Digest], int] = attrgetter("size_bytes")
_FEW = 16  # are looked up on the event loop
_log = structlog.get_logger(__name__)


_EMPTY = {digest_of(b"", function) for function in DigestFunction}


def _without_empty(digests: Collection[Digest]) -> Set[Digest]:
    """Return the digests without empty blobs, as a set; the same object if it needs no change.

    Callers do not change the collection before they have the answer. For a call with thousands of
    digests, a copy is expensive: iterating over a set in hash order misses the processor's caches.
    """
    if isinstance(digests, Set) and digests.isdisjoint(_EMPTY):
        return digests
    return set(digests) - _EMPTY


async def find_like(core: StorageContext, names: Sequence[bytes]) -> set[bytes]:
    """Return the catalogue key prefixes (names) under which a blob is held; checks files, too.

    Those of purged blobs are returned, too: whoever compares would send them. Gives no lease;
    damaged blobs are quarantined. Raises SourceUnavailable.
    """

    def find() -> tuple[set[bytes], list[tuple[Digest, int, Damage]], list[UsedPurge]]:
        connection = core.pool.connection()
        held, to_check = catalogue.present_like(connection, names)
        rows = catalogue.look_up(connection, [key for _, key in to_check])
        damaged = []
        for name, key in to_check:
            row = rows.get(key)
            # What is being evicted counts as absent: nobody could read it when this answer arrives.
            if row is None or row.marked_ms:
                continue
            damage = damage_of(core, row)
            if damage is None:
                held.add(name)
            else:
                damaged.append((digest_of_key(key, row.size_bytes), row.seq, damage))
        purged = purges.blobs_like(connection, [name for name in names if name not in held])
        held.update(name for name, _, _ in purged)
        return held, damaged, [(purges.name_of_key(key), used_ms) for _, key, used_ms in purged]

    try:
        held, damaged, purged = await core.pool.run(find)
    except UNREADABLE as error:
        raise core.catalogue_unreadable(error) from error
    core.note_purges_used(purged)
    for each in damaged:
        core.set_aside_soon(*each)
    return held


class Presence:
    """Answers which of the blobs that a caller names are held."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._complaints = Complaints(_log, core.clock)
        self._known = ExistenceCache(self._state, core.timing.granularity_ms)

    def _state(self) -> int:
        """Return a number that differs after any held object is gone, or any file has changed."""
        core = self._core
        # While the volume is in doubt no file is certain, so nothing that was remembered counts.
        if core.directory.volume.trouble:
            return -1
        return (core.epoch.value << 32) + core.files.changes()

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """See federation.core.store.Store. While the catalogue is unreadable all are missing."""
        wanted = _without_empty(digests)
        if not wanted:
            return set()
        found = await self._look_up(wanted, partial(keys_of, wanted), _size)
        return found.missing

    async def size_of(self, function: DigestFunction, raw_hash: bytes) -> int | None:
        """See federation.core.store.LocalStore."""
        if raw_hash == hash_bytes(function, b""):
            return 0
        key = key_of(Digest(raw_hash, 0, function))

        def find() -> int | None:
            row = catalogue.look_up(self._core.pool.connection(), [key]).get(key)
            return None if row is None or row.marked_ms else row.size_bytes

        try:
            return await self._core.pool.run(find)
        except UNREADABLE as error:
            raise self._core.catalogue_unreadable(error) from error

    async def find_missing_and_pulled(
        self, digests: Collection[Digest]
    ) -> tuple[set[Digest], list[bytes]]:
        """Return the missing digests, and the keys of held blobs that came from upstreams only.

        Takes one hop to a thread: two more took a quarter of the instructions of such an upload.
        """
        wanted = _without_empty(digests)
        if not wanted:
            return set(), []
        found = await self._look_up(wanted, partial(keys_of, wanted), _size, and_pulled=True)
        # A row may be held and its file gone: then it is uploaded, and not only renewed.
        needless = set(keys_of(found.missing))
        return found.missing, [key for key in found.pulled if key not in needless]

    async def find_missing_named(self, names: Sequence[bytes], spelling: DigestCodec) -> set[bytes]:
        """See federation.core.store.LocalStore."""
        asked_ms = self._core.now_ms()
        is_use = uses.current() is Use.CLIENT  # a cached answer counts as a use: only for clients
        # While leases wait to be written, only a look-up tells which ones need to be renewed.
        is_look_up = not is_use or self._core.is_behind()
        rest = names if is_look_up else self._known.unknown(names, asked_ms)
        epoch = self._known.epoch if is_look_up else self._known.seen  # asking costs a call
        if not rest:
            return set()
        found = await self._look_up(
            rest, lambda: keys_of_hashes(spelling.hashes_of(rest)), spelling.size_of
        )
        # Only a client's look-up leases as a client's use does, which a remembered name stands for.
        if is_use:
            self._remember(rest, found, asked_ms, epoch)
        return found.missing

    def find_missing_at_once(
        self, names: Sequence[bytes], spelling: DigestCodec
    ) -> set[bytes] | None:
        """See federation.core.store.LocalStore."""
        # Both need a look-up, as in find_missing_named; it may have to wait.
        if uses.current() is not Use.CLIENT or self._core.is_behind():
            return None
        asked_ms = self._core.now_ms()
        rest = self._known.unknown(names, asked_ms)
        if not rest:
            return set()
        question = PresenceQuestion(
            rest,
            lambda: keys_of_hashes(spelling.hashes_of(rest)),
            spelling.size_of,
            asked_ms,
            Use.CLIENT,
            and_pulled=False,
        )
        found = self._find_at_once(question)
        if found is None:
            return None
        found = self._settle(question, found)
        self._remember(rest, found, asked_ms, self._known.seen)
        return found.missing

    def _remember(
        self, names: Sequence[bytes], found: PresenceFound[bytes], asked_ms: int, epoch: int
    ) -> None:
        held = set(names) - found.missing
        if not self._core.files.is_on or self._core.directory.volume.trouble:
            held -= found.files  # they may vanish without a sign
        if held and found.is_certain:
            self._known.remember(held, asked_ms, self._core.now_ms(), epoch)

    async def _look_up(
        self,
        wanted: Collection[_N],
        keys: Callable[[], list[bytes]],
        size_of: Callable[[_N], int],
        *,
        and_pulled: bool = False,
    ) -> PresenceFound[_N]:
        """Look blobs up in the catalogue, and lease those that are held.

        keys: may be called in a thread; returns the catalogue keys of wanted, in its order.

        Raises SourceUnavailable if the disk does not tell whether a file exists.
        """
        asked_ms, use = self._core.now_ms(), uses.current()
        question = PresenceQuestion(wanted, keys, size_of, asked_ms, use, and_pulled)
        at_once = self._find_at_once(question)
        if at_once is not None:
            return self._settle(question, at_once)
        try:
            found = await self._core.pool.query(lambda at: find(self._core, at, question))
        except UNREADABLE as error:
            # Logged; "missing" has the client upload, which tells it what is wrong.
            self._core.catalogue_unreadable(error)
            return PresenceFound(set(wanted), is_certain=False)
        return self._settle(question, found)

    def _settle(
        self, question: PresenceQuestion[_N], found: PresenceFound[_N]
    ) -> PresenceFound[_N]:
        """Lease what was found, as far as leases can be given. Raises as set_aside_soon does."""
        wanted, asked_ms, use = question.wanted, question.asked_ms, question.use
        if use is Use.PEEK:  # it gives no lease, so the limits on leases do not matter
            self._quarantine_damaged(found)
            return found
        self._core.note_purges_used(
            (purges.name_of_key(key), used_ms) for key, used_ms in found.purged.values()
        )
        # Looked at behind the look-up: how long that took is the point.
        is_late, is_behind = self._core.is_late(asked_ms), self._core.is_behind()
        if is_late or is_behind:
            # What is withheld now may be held, so nothing of this answer is remembered.
            found.is_certain = False
            all_of_them = is_late or self._core.touches.in_doubt
            found.missing |= self._withheld(wanted, found, all_of_them=all_of_them)
        else:
            self._core.lease(found.lease, asked_ms, use)
            self._quarantine_damaged(found)
        return found

    def _withheld(
        self, wanted: Collection[_N], found: PresenceFound[_N], *, all_of_them: bool
    ) -> set[_N]:
        """Return the held blobs to report as missing while no new lease can be given.

        A blob whose access time was written a moment ago is leased already, and is not among them
        unless all_of_them is set. Records no touch: it would only add to those that wait.
        """
        self._quarantine_damaged(found)
        held_back = set(found.lease.values())
        if all_of_them:
            held_back = set(wanted) - found.missing - found.purged.keys()
        if held_back:
            self._core.metrics.leases_withheld.inc(len(held_back))
            self._complaints.warn(
                "leases_withheld",
                "access times could not be written in time, or a look-up took too long: until that "
                "ends, blobs that are held are reported missing. The disk or the machine is "
                "overloaded",
            )
        return held_back

    def _quarantine_damaged(self, found: PresenceFound[_N]) -> None:
        for digest, seq, damage in found.damaged:
            self._core.set_aside_soon(digest, seq, damage)

    def _find_at_once(self, question: PresenceQuestion[_N]) -> PresenceFound[_N] | None:
        """Do what _find does; None: a thread has to do it."""
        # More would keep the event loop from others for too long.
        if len(question.wanted) > _FEW:
            return None
        return self._core.resident.look(lambda at: find_few(self._core, at, question))
