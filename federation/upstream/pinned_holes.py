"""Brings what pinned entries name and is missing here: from upstreams, and then from peers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from federation.core import hops, uses
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.purges import Purged
from federation.core.uses import Use
from federation.upstream.bringing import BringingStore
from federation.upstream.peer_copies import Holders, PeerCopies
from federation.upstream.pull_through import UpstreamPool

_REST_S = 60.0  # a silent peer is not asked again for so long: many entries may wait for it


@dataclass(slots=True)
class _Batch:
    """What calls want from peers together; as many as walks go on at once."""

    wanted: set[Digest] = field(default_factory=set)
    is_done: bool = False


class PinnedHoles:
    """Fetches what a pin is to keep and this node lacks. One call at a time asks peers."""

    def __init__(self, pool: UpstreamPool, holders: Holders, purged: Purged, clock: Clock) -> None:
        """holders: see PeerCopies. purged: tells which blobs were purged here, and stay away."""
        self._pool = pool
        self._upstreams = BringingStore(pool)
        self._peers = PeerCopies(pool.local, holders)
        self._purged = purged
        self._clock = clock
        self._alone = asyncio.Lock()
        self._batch = _Batch()  # that is not asked for yet
        self._rest_until_s: dict[str, float] = {}  # by silent peer

    def __repr__(self) -> str:
        return f"<PinnedHoles {len(self._rest_until_s)} silent>"

    async def bring(self, digests: Collection[Digest]) -> None:
        """Bring what others have of blobs that no client asks for, as far as they may be asked.

        Raises what this node's own storage raises.
        """
        # On behalf of this node, not of a request; to look blobs up is not to use them.
        with hops.serving(hops.NOWHERE), uses.counted_as(Use.LEASE):
            if self._pool.askable_for_blobs():
                await self._upstreams.find_missing(digests)
            await self._with_others(digests)

    async def _with_others(self, digests: Collection[Digest]) -> None:
        """Ask peers, one call at a time, for what all calls want that waited for the last one.

        Entries of one pin name the same blobs, and a question costs as much for one entry.
        """
        batch = self._batch
        batch.wanted.update(digests)
        async with self._alone:
            if batch.is_done:  # by another call of it
                return
            if self._batch is batch:
                self._batch = _Batch()  # of those that come while peers are asked
            await self._from_peers(batch.wanted)
            batch.is_done = True  # where that failed, the next call of the batch tries

    async def _from_peers(self, digests: Collection[Digest]) -> None:
        # Looked up again: upstreams or another call may have brought them.
        missing = await self._pool.local.find_missing(digests)
        if missing:
            # A purge is meant for all nodes: a peer that has not heard of it brings nothing back.
            missing -= await self._purged(missing)
        if not missing:
            return
        now_s = self._clock.monotonic_s()
        resting = [name for name, until_s in self._rest_until_s.items() if now_s < until_s]
        _, answers = await self._peers.bring(missing, without=resting)
        silent = [each.name for each in answers if each.is_silent]
        # Read again: asking may have taken minutes, and the rest begins behind it.
        now_s = self._clock.monotonic_s()
        self._rest_until_s = {
            **{name: self._rest_until_s[name] for name in resting},
            **dict.fromkeys(silent, now_s + _REST_S),
        }
