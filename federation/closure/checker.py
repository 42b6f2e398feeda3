"""Checks that everything an index entry names is held, so that the entry may be served.

What an entry names follows from its bytes and from those of the structures below it, which never
change. So a closure that was whole once is remembered as a list of digests: to check it again takes
one look-up, and none while the store is certain that all of them are still held. "Incomplete" is
never remembered: a missing blob may arrive at any moment. However many callers ask about an entry,
it is walked once at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from federation.closure.names import Names, function_of_entry, names_of_entry
from federation.closure.walk import TooLarge, Walk, WalkContext
from federation.closure.whole import WholeClosure, WholeClosures
from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.errors import FederationError, InvalidRequest
from federation.core.index import Entry, EntryKind
from federation.core.store import Readable, WatchesHeld
from federation.core.tasks import Background
from federation.observability.rate_limits import LimitHits, LogLimit
from federation.wire.action_result import check_inlined

_log = structlog.get_logger(__name__)

_REJECTED = 10_000  # about 2 MB
_CONSISTENT = 32_768  # about 4 MB
_FEW_BYTES = 4 * 1024  # of an action result
_INLINE_BYTES = 128 * 1024  # hashing less than this costs less than the hop to a thread
_LOGGED = 1024  # entries whose refusal for their size was logged


@dataclass(slots=True)
class _Shared:
    """A running walk and how many wait for it."""

    task: asyncio.Task[bool]
    waiting: int = field(default=0)


class ClosureChecker:
    """Checks closures against one store."""

    def __init__(
        self,
        store: Readable,
        limits: LimitsConfig,
        clock: Clock,
        local: WatchesHeld | None,
        *,
        hits: LimitHits | None = None,
    ) -> None:
        """hits: counts malformed and too large entries.

        local: the same store, if it is the node's own. None: it asks upstreams. They may lose a
        blob at any moment, so each closure is walked each time; and a look-up costs more than
        sharing a walk.
        """
        self._hits = hits
        self._local = local
        # With the limits, since a reload may raise them: then the entry deserves another look.
        self._rejected: dict[bytes, tuple[int, int]] = {}  # by key: the limits at that time
        self._store = store
        self._limits = limits
        self._whole = WholeClosures(clock)
        self._walks: dict[bytes, _Shared] = {}
        self._logged: set[bytes] = set()
        self._consistent: set[bytes] = set()  # entries whose inlined bytes match their digests
        self._log_limit = LogLimit(clock)
        self._context = WalkContext()
        self._background = Background()

    def __repr__(self) -> str:
        return f"<ClosureChecker {len(self._whole)} whole, {len(self._walks)} walks>"

    @property
    def is_idle(self) -> bool:
        """Whether no walk is under way."""
        return not self._walks

    def is_certain(self, entry: Entry) -> bool:
        """Return whether everything the entry names is held for certain, without a look-up.

        Then all of it is leased. False: not known without a look-up; ask complete().
        """
        whole = self._whole.get(_key_of(entry), self._bounds())
        return whole is not None and whole.is_certain()

    async def complete(self, entry: Entry) -> bool:
        """Return whether everything the entry names is held; all of it is then leased.

        False also for an entry that is malformed or beyond the limits. Raises SourceUnavailable
        when the store cannot answer.
        """
        key = _key_of(entry)
        if (whole := self._whole.get(key, self._bounds())) is not None:
            if whole.is_certain():
                return True
            # Nothing is read or parsed again: what an entry names never changes.
            if whole.has_digests:
                return await self._look_again(whole)
        if self._rejected.get(key) == self._bounds():
            return False
        names = _few_names(entry)
        is_flat = names is not None and not any(part.structures for part in names)
        if is_flat and self._local is not None:
            # One look-up, and nothing to read: not worth a task to share.
            return await self._check(key, entry, names)
        # Looked up before the call below, which enters the key itself.
        joined = key in self._walks
        if await self._walk(key, entry, names):
            return True
        # The joined walk may have seen as missing what arrived before this call.
        return joined and await self._walk(key, entry, names)

    async def is_consistent(self, entry: Entry) -> bool:
        """Return whether the entry is well-formed and its inlined bytes match their digests.

        complete() checks that, too.
        """
        try:
            await self._check_consistent(_key_of(entry), entry)
        except InvalidRequest as error:
            _log.debug("closure_unreadable", entry=entry.label, reason=str(error))
            return False
        return True

    async def _check_consistent(self, key: bytes, entry: Entry) -> None:
        """Raise InvalidRequest if the entry is malformed or inlines bytes that it does not name."""
        if entry.key.kind != EntryKind.ACTION_RESULT or key in self._consistent:
            return
        function = function_of_entry(entry)
        if len(entry.value) <= _INLINE_BYTES:
            check_inlined(entry.value, function)
        else:
            await asyncio.to_thread(check_inlined, entry.value, function)
        # Cleared as a whole, without an order of use: a repeated check costs one hash.
        if len(self._consistent) >= _CONSISTENT:
            self._consistent.clear()
        self._consistent.add(key)

    async def close(self) -> None:
        """End all walks."""
        await self._background.close()

    async def _look_again(self, whole: WholeClosure) -> bool:
        """Look up what a closure names that was whole before, and return whether it is again."""
        assert self._local is not None
        # Before the look-up: a blob that vanishes in between must not count as seen.
        watch = self._local.watch()
        if await self._store.find_missing(whole.digests()):
            return False
        whole.watch = watch
        return True

    async def _walk(self, key: bytes, entry: Entry, names: Sequence[Names] | None) -> bool:
        """Join the walk over this entry or start one. The last caller to leave stops it."""
        shared = self._walks.get(key)
        if shared is None or shared.task.done():
            shared = _Shared(self._background.start(self._check(key, entry, names), "closure"))
            self._walks[key] = shared
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            # A walk may read a million directories, and nobody would have its verdict.
            if not shared.waiting:
                shared.task.cancel()
                if self._walks.get(key) is shared:
                    del self._walks[key]

    async def _check(self, key: bytes, entry: Entry, names: Sequence[Names] | None) -> bool:
        """names: what the entry names itself, where that is known already."""
        # Before the walk, for the same reason as in _look_again.
        watch = None if self._local is None else self._local.watch()
        # A reload may change them during the walk, and the verdict is about these.
        bounds = self._bounds()
        try:
            await self._check_consistent(key, entry)
            walk = Walk(self._store, self._limits, self._context)
            complete = await walk.complete(
                lambda: names_of_entry(entry) if names is None else iter(names)
            )
        except InvalidRequest as error:
            _log.debug("closure_unreadable", entry=entry.label, reason=str(error))
            self._reject(key, entry, "closure.malformed", error)
            return False
        except TooLarge as error:
            self._log_once(key, entry, error)
            self._reject(key, entry, "closure.size", error)
            return False
        # "Incomplete" is not kept: the blob that is missing may be on its way.
        if complete and watch is not None:
            self._whole.add(key, watch, bounds, walk.found(WholeClosures.DIGESTS_MAX))
        return complete

    def _bounds(self) -> tuple[int, int]:
        return self._limits.tree_directories, self._limits.closure_blobs

    def _reject(self, key: bytes, entry: Entry, limit: str, error: FederationError) -> None:
        """Remember that an entry fails under these limits: the bytes behind a key never change."""
        if len(self._rejected) >= _REJECTED:
            del self._rejected[next(iter(self._rejected))]
        self._rejected[key] = self._bounds()
        if self._hits is not None:
            self._hits.hit(limit, "", entry=entry.label, reason=str(error))

    def _log_once(self, key: bytes, entry: Entry, error: TooLarge) -> None:
        if key in self._logged:
            return
        if len(self._logged) >= _LOGGED:
            self._logged.clear()
        self._logged.add(key)
        # Whoever may push can make up such entries without end.
        if (held_back := self._log_limit.admit()) is not None:
            label, reason = entry.label, str(error)
            _log.warning("closure_too_large", entry=label, reason=reason, held_back=held_back)


def _few_names(entry: Entry) -> Sequence[Names] | None:
    """Return what a small action result names; None for others, and for a malformed one."""
    if entry.key.kind != EntryKind.ACTION_RESULT or len(entry.value) > _FEW_BYTES:
        return None
    try:
        return list(names_of_entry(entry))
    except InvalidRequest:
        return None  # the walk reports what is wrong


def _key_of(entry: Entry) -> bytes:
    """Return a hash of what a verdict depends on: the kind, the name and the value.

    The instance is left out: all instances share their blobs. Names of one kind have one length, so
    the parts are unambiguous.
    """
    key = entry.key
    hasher = hashlib.sha256(bytes((key.kind, len(key.name))) + key.name)
    hasher.update(entry.value)
    return hasher.digest()
