"""Whether everything that an index entry names is here, so that the entry may be served.

Verdicts over large closures are remembered for a short time, far less than a lease, so that
serving an entry keeps renewing the leases of what it names. Only "complete" is remembered: a hole
may be filled at any moment. One entry is walked once at a time, however many ask for it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import structlog

from federation.closure.names import function_of_entry, names_of_entry
from federation.closure.walk import TooLarge, Turns, Walk
from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.errors import FederationError, InvalidRequest
from federation.core.store import Entry, EntryKind, LocalStore
from federation.core.tasks import Background
from federation.observability.limit_hits import LimitHits
from federation.observability.log_limit import LogLimit
from federation.wire.action_result import check_inlined

_log = structlog.get_logger(__name__)

_REMEMBER_S = 60.0
_VERDICTS = 32_768  # about 10 MB
_HOPELESS = 10_000  # about 2 MB
_SOUND = 32_768  # about 4 MB
_INLINE_BYTES = 128 * 1024  # hashing less costs less than handing it to a thread
_TOLD = 1024  # entries for which a refusal to walk was logged


@dataclass(slots=True)
class _Shared:
    """A running walk and how many wait for it."""

    task: asyncio.Task[bool]
    waiting: int = field(default=0)


class ClosureChecker:
    """Asks a store; lease_s is the store's lease period.

    A closure of up to small_max blobs and structures is walked each time: that takes about a
    millisecond, and notices files that vanished behind the node's back.
    """

    def __init__(
        self,
        store: LocalStore,
        limits: LimitsConfig,
        clock: Clock,
        lease_s: float,
        *,
        small_max: int = 500,
        hits: LimitHits | None = None,
    ) -> None:
        """hits: told of entries that cannot be read or are too large."""
        self._hits = hits
        self._hopeless: dict[bytes, tuple[int, int]] = {}  # under which limits
        self._small_max = small_max
        self._store = store
        self._limits = limits
        self._clock = clock
        # As long as storage leaves touches unrenewed: an eviction allows for both (Timing).
        self._remember_s = min(_REMEMBER_S, lease_s / 8)
        self._verdicts: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._walks: dict[bytes, _Shared] = {}
        self._told: set[bytes] = set()
        self._sound: set[bytes] = set()  # entries that do not contradict themselves
        self._log_limit = LogLimit(clock)
        self._turns = Turns()
        self._background = Background()

    def __repr__(self) -> str:
        return f"<ClosureChecker {len(self._verdicts)} verdicts, {len(self._walks)} walks>"

    @property
    def is_idle(self) -> bool:
        """Whether no walk is under way."""
        return not self._walks

    async def complete(self, entry: Entry) -> bool:
        """Return whether all that the entry names is here; then it is also leased.

        False too for an entry that cannot be read or is beyond the limits. Raises what the store
        raises when it cannot tell.
        """
        key = _key_of(entry)
        if self._known(key):
            return True
        if self._hopeless.get(key) == self._bounds():
            return False
        joined = key in self._walks
        if await self._walk(key, entry):
            return True
        # A walk that was under way may have passed a hole that was filled before this call.
        return joined and await self._walk(key, entry)

    async def sound(self, entry: Entry) -> bool:
        """Return whether the entry can be read and does not contradict itself.

        complete() says no to one that is not, too.
        """
        try:
            await self._check_sound(_key_of(entry), entry)
        except InvalidRequest as error:
            _log.debug("closure_unreadable", entry=entry.label, reason=str(error))
            return False
        return True

    async def _check_sound(self, key: bytes, entry: Entry) -> None:
        """Raise InvalidRequest for an entry that holds other bytes than it names."""
        if entry.key.kind is not EntryKind.ACTION_RESULT or key in self._sound:
            return
        function = function_of_entry(entry)
        if len(entry.value) <= _INLINE_BYTES:
            check_inlined(entry.value, function)
        else:
            await asyncio.to_thread(check_inlined, entry.value, function)
        if len(self._sound) >= _SOUND:
            self._sound.clear()
        self._sound.add(key)

    async def close(self) -> None:
        """End all walks."""
        await self._background.close()

    def _known(self, key: bytes) -> bool:
        verdict = self._verdicts.get(key)
        if verdict is None:
            return False
        epoch, at_s = verdict
        if epoch != self._store.presence_epoch():
            return False
        if self._clock.monotonic_s() - at_s > self._remember_s:
            return False
        self._verdicts.move_to_end(key)
        return True

    async def _walk(self, key: bytes, entry: Entry) -> bool:
        """Join the walk over this entry or start it; the last one who leaves stops it."""
        shared = self._walks.get(key)
        if shared is None or shared.task.done():
            shared = _Shared(self._background.start(self._check(key, entry), "closure"))
            self._walks[key] = shared
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if not shared.waiting:
                shared.task.cancel()
                if self._walks.get(key) is shared:
                    del self._walks[key]

    async def _check(self, key: bytes, entry: Entry) -> bool:
        epoch, at_s = self._store.presence_epoch(), self._clock.monotonic_s()
        try:
            await self._check_sound(key, entry)
            walk = Walk(self._store, self._limits, self._turns)
            complete = await walk.complete(lambda: names_of_entry(entry))
        except InvalidRequest as error:
            _log.debug("closure_unreadable", entry=entry.label, reason=str(error))
            self._give_up(key, entry, "closure.malformed", error)
            return False
        except TooLarge as error:
            self._tell_once(key, entry, error)
            self._give_up(key, entry, "closure.size", error)
            return False
        if complete and walk.met > self._small_max:
            self._remember(key, epoch, at_s)
        return complete

    def _bounds(self) -> tuple[int, int]:
        return self._limits.tree_directories, self._limits.closure_blobs

    def _give_up(self, key: bytes, entry: Entry, limit: str, error: FederationError) -> None:
        """Remember what stays so as long as the limits do: what is named is named by its bytes."""
        if len(self._hopeless) >= _HOPELESS:
            del self._hopeless[next(iter(self._hopeless))]
        self._hopeless[key] = self._bounds()
        if self._hits is not None:
            self._hits.hit(limit, "", entry=entry.label, reason=str(error))

    def _remember(self, key: bytes, epoch: int, at_s: float) -> None:
        self._verdicts[key] = (epoch, at_s)
        self._verdicts.move_to_end(key)
        if len(self._verdicts) > _VERDICTS:
            self._verdicts.popitem(last=False)

    def _tell_once(self, key: bytes, entry: Entry, error: TooLarge) -> None:
        if key in self._told:
            return
        if len(self._told) >= _TOLD:
            self._told.clear()
        self._told.add(key)
        if (held_back := self._log_limit.take()) is not None:
            label, reason = entry.label, str(error)
            _log.warning("closure_too_large", entry=label, reason=reason, held_back=held_back)


def _key_of(entry: Entry) -> bytes:
    """Return what a verdict depends on: how the value is read, and the value.

    Not the instance: blobs are shared by all. Names have one length in each kind, so the parts
    cannot run into one another.
    """
    key = entry.key
    hasher = hashlib.sha256(bytes((key.kind, len(key.name))) + key.name)
    hasher.update(entry.value)
    return hasher.digest()
