"""Which blobs are held: answered by one catalogue look-up, or from a cache of recent answers.

Answering that a blob is held gives a lease on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Generic, TypeVar

import apsw
import structlog

from federation.core import uses
from federation.core.digest import Digest, DigestFunction, digest_of, hash_bytes
from federation.core.store import DigestCodec
from federation.core.uses import Use
from federation.observability.rate_limits import Complaints
from federation.storage import resident_files
from federation.storage.blob_files import Damage
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue.blobs import (
    BlobRow,
    digest_of_key,
    key_of,
    keys_of,
    keys_of_hashes,
)
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.context import StorageContext
from federation.storage.existence_cache import ExistenceCache

_N = TypeVar("_N")  # how the caller names a blob: a Digest, or its encoded form
_size: Callable[[Digest], int] = attrgetter("size_bytes")
_FEW = 16  # are looked up on the event loop
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Found(Generic[_N]):
    """What a look-up in a thread brings back to the event loop."""

    missing: set[_N] = field(default_factory=set)
    lease: dict[bytes, _N] = field(default_factory=dict)  # the stored access time is getting old
    pulled: list[bytes] = field(default_factory=list)  # they came from upstreams only
    files: set[_N] = field(default_factory=set)  # kept in files, which may vanish at any moment
    is_certain: bool = True  # False: missing may contain blobs that are held
    damaged: list[tuple[Digest, int, Damage]] = field(default_factory=list)


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

    Gives no lease; damaged blobs are quarantined. Raises SourceUnavailable.
    """

    def find() -> tuple[set[bytes], list[tuple[Digest, int, Damage]]]:
        connection = core.pool.connection()
        held, to_check = catalogue.present_like(connection, names)
        rows = catalogue.look_up(connection, [key for _, key in to_check])
        damaged = []
        for name, key in to_check:
            row = rows.get(key)
            if row is None or row.marked_ms:
                continue
            damage = _damage_of(core, row)
            if damage is None:
                held.add(name)
            else:
                damaged.append((digest_of_key(key, row.size_bytes), row.seq, damage))
        return held, damaged

    try:
        held, damaged = await core.pool.run(find)
    except UNREADABLE as error:
        raise core.catalogue_unreadable(error) from error
    for each in damaged:
        core.set_aside_soon(*each)
    return held


def _damage_of(core: StorageContext, row: BlobRow) -> Damage | None:
    """Return what is wrong with a blob's file according to stat. Raises SourceUnavailable."""
    if row.inline:
        return None
    directory = core.directory
    path = directory.blob_path(digest_of_key(row.key, row.size_bytes))
    try:
        directory.volume.check_file(path, row.size_bytes)
    except Damage as damage:
        return damage
    return None


def _damage_at_once(core: StorageContext, row: BlobRow) -> None:
    """Return if a blob's file is right. Raises BlockingIOError if a thread has to look."""
    if not row.inline:
        path = core.directory.blob_path(digest_of_key(row.key, row.size_bytes))
        resident_files.check_file(path, row.size_bytes)


@dataclass(slots=True)
class _Question(Generic[_N]):
    """What is looked up."""

    wanted: Collection[_N]
    keys: Callable[[], list[bytes]]  # the catalogue keys of wanted, in its order
    size_of: Callable[[_N], int]
    asked_ms: int
    use: Use
    and_pulled: bool


class Presence:
    """Answers which of the blobs that a caller names are held."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._complaints = Complaints(_log, core.clock)
        self._known = ExistenceCache(lambda: core.epoch.value, core.timing.granularity_ms)

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
        if is_use:
            self._remember(rest, found, asked_ms, epoch)
        return found.missing

    def find_missing_at_once(
        self, names: Sequence[bytes], spelling: DigestCodec
    ) -> set[bytes] | None:
        """See federation.core.store.LocalStore."""
        if uses.current() is not Use.CLIENT or self._core.is_behind():
            return None
        asked_ms = self._core.now_ms()
        rest = self._known.unknown(names, asked_ms)
        if not rest:
            return set()
        question = _Question(
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
        self, names: Sequence[bytes], found: _Found[bytes], asked_ms: int, epoch: int
    ) -> None:
        if found.is_certain:
            held = set(names) - found.missing - found.files
            self._known.remember(held, asked_ms, self._core.now_ms(), epoch)

    async def _look_up(
        self,
        wanted: Collection[_N],
        keys: Callable[[], list[bytes]],
        size_of: Callable[[_N], int],
        *,
        and_pulled: bool = False,
    ) -> _Found[_N]:
        """Look blobs up in the catalogue, and lease those that are held.

        keys: may be called in a thread; returns the catalogue keys of wanted, in its order.

        Raises SourceUnavailable if the disk does not tell whether a file exists.
        """
        asked_ms, use = self._core.now_ms(), uses.current()
        question = _Question(wanted, keys, size_of, asked_ms, use, and_pulled)
        at_once = self._find_at_once(question)
        if at_once is not None:
            return self._settle(question, at_once)
        try:
            found = await self._core.pool.query(self._find, question, _damage_of)
        except UNREADABLE as error:
            self._core.catalogue_unreadable(error)
            return _Found(set(wanted), is_certain=False)
        return self._settle(question, found)

    def _settle(self, question: _Question[_N], found: _Found[_N]) -> _Found[_N]:
        """Lease what was found, as far as leases can be given. Raises as set_aside_soon does."""
        wanted, asked_ms, use = question.wanted, question.asked_ms, question.use
        if use is Use.PEEK:  # it gives no lease, so the limits on leases do not matter
            self._quarantine_damaged(found)
            return found
        is_late, is_behind = self._core.is_late(asked_ms), self._core.is_behind()
        if is_late or is_behind:
            found.is_certain = False
            all_of_them = is_late or self._core.touches.in_doubt
            found.missing |= self._withheld(wanted, found, all_of_them=all_of_them)
        else:
            self._core.lease(found.lease, asked_ms, use)
            self._quarantine_damaged(found)
        return found

    def _withheld(self, wanted: Collection[_N], found: _Found[_N], *, all_of_them: bool) -> set[_N]:
        """Return the held blobs to report as missing while no new lease can be given.

        A blob whose access time was written a moment ago is leased already, and is not among them
        unless all_of_them is set. Records no touch: it would only add to those that wait.
        """
        self._quarantine_damaged(found)
        held_back = set(wanted) - found.missing if all_of_them else set(found.lease.values())
        if held_back:
            self._core.metrics.leases_withheld.inc(len(held_back))
            self._complaints.warn(
                "leases_withheld",
                "access times could not be written in time, or a look-up took too long: until that "
                "ends, blobs that are held are reported missing. The disk or the machine is "
                "overloaded",
            )
        return held_back

    def _quarantine_damaged(self, found: _Found[_N]) -> None:
        for digest, seq, damage in found.damaged:
            self._core.set_aside_soon(digest, seq, damage)

    def _find_at_once(self, question: _Question[_N]) -> _Found[_N] | None:
        """Do what _find does; None: a thread has to do it."""
        if len(question.wanted) > _FEW:
            return None
        return self._core.resident.look(lambda at: self._find(at, question, _damage_at_once))

    def _find(
        self,
        connection: apsw.Connection,
        question: _Question[_N],
        damage_of: Callable[[StorageContext, BlobRow], Damage | None],
    ) -> _Found[_N]:
        found: _Found[_N] = _Found()
        wanted, size_of, use = question.wanted, question.size_of, question.use
        renew_before = question.asked_ms - self._core.timing.granularity_ms
        keys = question.keys()
        held, to_check = catalogue.present(connection, keys, renew_before, use)
        found.missing = {
            name
            for name, key in zip(wanted, keys, strict=True)
            if key not in held or held[key] != size_of(name)
        }
        if to_check:
            candidates = [
                (name, key, held[key])
                for name, key in zip(wanted, keys, strict=True)
                if key in to_check and name not in found.missing
            ]
            rows = catalogue.look_up(connection, [key for _, key, _ in candidates])
            self._check_rows(candidates, rows, renew_before, use, found, damage_of)
        if question.and_pulled and held:
            found.pulled = catalogue.pulled_keys(connection, list(held))
        return found

    def _check_rows(
        self,
        wanted: Sequence[tuple[_N, bytes, int]],
        rows: Mapping[bytes, BlobRow],
        renew_before_ms: int,
        use: Use,
        found: _Found[_N],
        damage_of: Callable[[StorageContext, BlobRow], Damage | None],
    ) -> None:
        """Decide about blobs that need more than a size: looks at whole rows and at files.

        Raises what damage_of does.
        """
        for name, key, size_bytes in wanted:
            row = rows.get(key)
            if row is None or row.size_bytes != size_bytes or row.marked_ms:
                found.missing.add(name)
                continue
            if (damage := damage_of(self._core, row)) is not None:
                found.missing.add(name)
                found.damaged.append((digest_of_key(key, size_bytes), row.seq, damage))
                continue
            if not row.inline:
                found.files.add(name)
            if row.renewed_ms(use) < renew_before_ms:
                found.lease[key] = name
