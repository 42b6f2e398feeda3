"""Finds the index entry that answers a request: here and, on a miss, at upstreams in order.

`Finder` is the contract between the services and the entries. `FederatedFinder` implements it over
local storage and upstreams. An entry pushed here always wins over an upstream's. A pulled entry is
asked for again after index_ttl_s while its upstream is up, since names are mutable, and is served
as it is while the upstream is down. An upstream's entry is stored and served only when its closure
is whole, here and at that upstream together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol

import structlog

from federation.closure.checker import ClosureChecker
from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.errors import FederationError, SourceUnavailable
from federation.core.index import Entry, EntryKey, Index
from federation.core.provenance import Provenance, Source
from federation.core.purges import PurgedEntries, nothing_purged
from federation.upstream.index_queries import AskUpstream, IndexQueries
from federation.upstream.pull_through import PullThrough, UpstreamPool
from federation.upstream.upstream import Upstream

_log = structlog.get_logger(__name__)

_KEYS = 16  # looked up at once; clients name one or two URIs, and entries may be megabytes


class EntryQuery(NamedTuple):
    """A request for an entry under any of the keys, in this order, that is acceptable.

    ask puts the same question to an upstream; its answer is under one of ask's own keys.
    """

    keys: Sequence[EntryKey]
    acceptable: Callable[[Entry], Awaitable[bool]]
    ask: AskUpstream


class Finder(Protocol):
    """Where services find entries."""

    async def find(self, query: EntryQuery) -> Entry | None:
        """Return the first acceptable entry with a complete closure, which is then leased.

        None when there is none, and while the index cannot be asked: builds go on without it.
        Raises what storage raises.
        """
        ...

    def recall(self, key: EntryKey) -> Entry | None:
        """Return what find() returns for this key alone; None: not known without waiting."""
        ...

    def misses_at_once(self, keys: Sequence[EntryKey]) -> bool:
        """Return whether it is known without waiting that no entry has any of these keys."""
        ...

    async def keys_like(self, prefixes: Sequence[EntryKey]) -> list[EntryKey]:
        """Return the keys of what is held here under names that begin with one of these names.

        It is empty while the index cannot be asked, as for find(); bounded as Index.get_like().
        """
        ...


class _Held(NamedTuple):
    """The acceptable entries that are held here under the keys of a query."""

    whole: Entry | None  # the first that was pushed here and can be served
    pushed: set[EntryKey]
    fresh: list[Entry]
    stale: list[Entry]
    is_known: bool = True  # False: the index cannot be asked


class _There(NamedTuple):
    """The closure checker of one upstream."""

    upstream: Upstream
    closures: ClosureChecker


class FederatedFinder:
    """See Finder."""

    def __init__(
        self,
        index: Index,
        closures: ClosureChecker,
        shared: UpstreamPool,
        prefetch: Callable[[Entry], object] | None,
        limits: LimitsConfig,
        clock: Clock,
        *,
        index_ttl_s: float,
        blobs_elsewhere: bool = False,
        purged: PurgedEntries = nothing_purged,
    ) -> None:
        """prefetch: takes entries of whose closures something is only at their upstream.

        blobs_elsewhere: the callers have another server for blobs. Entries are then served
        whatever this node holds of their closures, and nothing is pulled for them.

        index_ttl_s: how long a pulled entry is served unasked. purged: tells which names were
        purged here; no upstream's entry is served under those.
        """
        self._purged = purged
        self._blobs_elsewhere = blobs_elsewhere
        self._index = index
        self._closures = closures
        self._shared = shared
        self._prefetch = prefetch
        self._limits = limits
        self._clock = clock
        self.index_ttl_s = index_ttl_s
        self._queries = IndexQueries(shared.upstreams, clock)
        self._there: dict[str, _There] = {}
        self._replaced: list[ClosureChecker] = []  # of upstreams that a reload removed or changed

    async def close(self) -> None:
        """Stop all questions and walks under way."""
        await self._queries.close()
        for closures in [*self._replaced, *(there.closures for there in self._there.values())]:
            await closures.close()

    def recall(self, key: EntryKey) -> Entry | None:
        """See Finder."""
        if self._blobs_elsewhere:
            return None
        entry = self._index.recall(key)
        # A pulled entry may be due for a question, or be whole only together with its upstream.
        if entry is None or entry.source is Source.UPSTREAM:
            return None
        return entry if self._closures.is_certain(entry) else None

    def misses_at_once(self, keys: Sequence[EntryKey]) -> bool:
        """See Finder."""
        # Behind upstreams a miss is a question, and that takes time.
        return not self._shared.upstreams and self._index.lacks_at_once(keys)

    async def keys_like(self, prefixes: Sequence[EntryKey]) -> list[EntryKey]:
        """See Finder."""
        try:
            return [each.key for each in await self._index.get_like(prefixes)]
        except SourceUnavailable:
            return []

    async def find(self, query: EntryQuery) -> Entry | None:
        """See Finder."""
        # Nothing wins over the first key, so the others need no look.
        recalled = self.recall(query.keys[0]) if query.keys else None
        if recalled is not None and await query.acceptable(recalled):
            return recalled
        # The second look sees what a question that ended during the first one has stored.
        for _ in range(2):
            closed = self._queries.closed
            held = await self._held(query)
            if held.whole is not None:
                return held.whole
            for entry in held.fresh:
                if await self._complete_together(entry):
                    return entry
            if closed == self._queries.closed:
                break  # otherwise an answer may have been stored during this look
        if held.is_known and self._shared.may_ask():
            pulled = await self._ask_upstreams(query, held.pushed)
            if pulled is not None:
                return pulled
        for entry in held.stale:
            if await self._complete_together(entry):
                return entry
        return None

    async def _held(self, query: EntryQuery) -> _Held:
        """Look here, a few keys at a time, until an entry that was pushed can be served."""
        pushed: set[EntryKey] = set()
        fresh: list[Entry] = []
        stale: list[Entry] = []
        fresh_since_s = self._clock.wall_s() - self.index_ttl_s
        for at in range(0, len(query.keys), _KEYS):
            try:
                found = await self._index.get(query.keys[at : at + _KEYS])
            except SourceUnavailable:  # the storage tells of it, in its log and in health()
                return _Held(None, set(), [], [], is_known=False)
            for entry in found:
                if entry is None or not await query.acceptable(entry):
                    continue
                if entry.source is not Source.UPSTREAM:
                    if await self._may_be_served(entry):
                        # Nothing that was pulled wins over it, under whatever key.
                        return _Held(entry, pushed, fresh, stale)
                    # It has a hole: an upstream's value is served instead, but never stored.
                    pushed.add(entry.key)
                # A date in the future is of a clock that was ahead: it must not be fresh for long.
                elif fresh_since_s < entry.stored_at_s <= self._clock.wall_s():
                    fresh.append(entry)
                else:
                    stale.append(entry)
        return _Held(None, pushed, fresh, stale)

    async def _complete_together(self, entry: Entry) -> bool:
        """Whether a pulled entry's closure is here, or here and at its upstream together."""
        if await self._may_be_served(entry):
            return True
        origin = next((u for u in self._shared.upstreams if u.name == entry.origin), None)
        if origin is None or not self._shared.may_ask():
            return False
        # Asked each time: an upstream may lose a blob right after it said that it has it.
        if not await self._closures_at(origin).complete(entry):
            return False
        if self._prefetch is not None:
            self._prefetch(entry)  # an earlier prefetch may have ended with its process
        return True

    async def _ask_upstreams(self, query: EntryQuery, taken: set[EntryKey]) -> Entry | None:
        # No answer could be served, so nobody is asked.
        if len(await self._purged(query.keys)) == len(set(query.keys)):
            return None
        async with aclosing(self._queries.answers(query.ask)) as answers:
            async for upstream, answer in answers:
                entry = self._dated(answer, upstream)
                if await self._purged([entry.key]) or not await query.acceptable(entry):
                    continue
                if not await self._is_whole_at(upstream, entry):
                    continue  # something is missing: not stored, and asked for again later
                if entry.key not in taken:
                    await self._keep(entry, upstream)
                if self._prefetch is not None and not self._blobs_elsewhere:
                    self._prefetch(entry)
                return entry
        return None

    async def _is_whole_at(self, upstream: Upstream, entry: Entry) -> bool:
        if self._blobs_elsewhere:
            return await self._closures.is_consistent(entry)
        return await self._closures_at(upstream).complete(entry)

    async def _may_be_served(self, entry: Entry) -> bool:
        """Whether all that the entry names is here, or may be on the callers' other server."""
        if self._blobs_elsewhere:
            return await self._closures.is_consistent(entry)
        return await self._closures.complete(entry)

    def _closures_at(self, upstream: Upstream) -> ClosureChecker:
        """Return the checker that looks here and at one upstream; a reload may have replaced it."""
        there = self._there.get(upstream.name)
        if there is not None and there.upstream is not upstream:
            # A walk under way ends with the old checker, which close() has to know until then.
            busy = [each for each in self._replaced if not each.is_idle]
            self._replaced = [*busy, there.closures]
            there = None
        if there is None:
            # One that serves entries alone has its blobs at another upstream, whichever that is.
            only = upstream if upstream.serves_blobs else None
            store = PullThrough(self._shared, includes_upstreams=True, only=only)
            # None: verdicts about closures at an upstream are never remembered (docs/decisions.md).
            closures = ClosureChecker(store, self._limits, self._clock, None)
            there = self._there[upstream.name] = _There(upstream, closures)
        return there.closures

    def _dated(self, entry: Entry, upstream: Upstream) -> Entry:
        return entry._replace(
            stored_at_s=self._clock.wall_s(), source=Source.UPSTREAM, origin=upstream.name
        )

    async def _keep(self, entry: Entry, upstream: Upstream) -> None:
        provenance = Provenance(Source.UPSTREAM, origin=upstream.name)
        try:
            await self._index.put([entry], provenance=provenance)
        except FederationError as error:
            # A node without room still answers, and asks the upstream again next time.
            _log.warning("pulled_entry_not_kept", entry=entry.label, reason=str(error))
