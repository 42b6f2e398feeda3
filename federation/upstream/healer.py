"""Brings blobs back that were found damaged here: from upstreams, and from peers after them.

One process of a storage heals. It looks at the record of lost blobs once a second, so it learns of
what any process found, `federation verify --repair` included, and a restart goes on where the last
process ended. A few blobs are asked for at a time, and a blob that no server sends is asked for
again ever more rarely.

Upstreams are asked by pulls as for a reader, so the offline switch, breakers and limits hold.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import structlog

from federation.core import hops, uses
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import FederationError
from federation.core.lost_blobs import Attempt, LostBlob, LostBlobs
from federation.core.sole_role import SoleRole
from federation.core.uses import Use
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import Complaints
from federation.upstream.bringing import BringingStore
from federation.upstream.peer_copies import Holders, PeerCopies
from federation.upstream.pull_through import UpstreamPool
from federation.upstream.upstream import Upstream

_LOOK_EVERY_S = 1.0
_AT_ONCE = 64  # blobs
_AGAIN_FIRST_S, _AGAIN_MAX_S = 10.0, 3600.0
_TRIES_MAX = 720  # of one blob: about three weeks

_log = structlog.get_logger(__name__)


def again_in_s(tries: int, jitter: random.Random) -> float | None:
    """Return how long to wait after this many failed tries; None: do not try again."""
    if tries >= _TRIES_MAX:
        return None
    # Spread: blobs that a failing disk lost together must not be asked for together each time.
    return min(_AGAIN_MAX_S, _AGAIN_FIRST_S * 2.0 ** min(tries - 1, 20)) * jitter.uniform(0.5, 1.0)


class Healer:
    """Heals one batch of lost blobs after the other, while this process leads."""

    def __init__(
        self,
        lost: LostBlobs,
        lead: SoleRole,
        shared: UpstreamPool,
        holders: Holders,
        metrics: Metrics,
        clock: Clock,
        jitter: random.Random,
    ) -> None:
        """holders: see PeerCopies."""
        self._lost = lost
        self._lead = lead
        self._shared = shared
        self._bringing = BringingStore(shared)
        self._peers = PeerCopies(shared.local, holders)
        self._metrics = metrics
        self._clock = clock
        self._jitter = jitter
        self._complaints = Complaints(_log, clock)
        for source in ("upstream", "peer"):  # each series begins at 0
            metrics.fetching.healed.labels(source=source)

    def __repr__(self) -> str:
        return f"<Healer {'leads' if self._lead.holds_lead() else 'waits'}>"

    async def run(self) -> None:
        """Heal until cancelled."""
        # On behalf of this node, not of a request; a look is no use of what came back.
        with hops.serving(hops.NOWHERE), uses.counted_as(Use.LEASE):
            while True:
                if not await self._step():
                    await self._clock.sleep(_LOOK_EVERY_S)

    async def _step(self) -> bool:
        """Heal what is due; return whether there may be more."""
        try:
            if not self._lead.holds_lead() and not self._lead.try_to_lead():
                return False
            found = await self._lost.due(self._clock.wall_s(), _AT_ONCE)
            self._metrics.fetching.lost_blobs.set(found.lost)
            # False also where nobody could be asked: the loop then rests before it asks again.
            return bool(found.due) and await self.heal(found.due)
        except (FederationError, OSError) as error:  # the disk or the catalogue; it may come back
            self._complaints.warn("healing_waits", error)
            return False

    async def heal(self, lost: Sequence[LostBlob]) -> bool:
        """Try to bring these blobs back; return whether any server could be asked.

        Raises what this node's own storage raises.
        """
        # A client may have pushed some of them again, and then no server is asked.
        missing = await self._shared.local.find_missing([each.digest for each in lost])
        answers: list[str] = []
        if missing:
            missing = await self._from_upstreams(missing, answers)
        if missing:
            missing = await self._from_peers(missing, answers)
        await self._note_back(lost, missing)
        # It is no try if nobody could be asked, or a week offline would use all tries up.
        if missing and answers:
            await self._put_off([each for each in lost if each.digest in missing], answers)
        return bool(answers)

    async def _from_upstreams(self, missing: set[Digest], answers: list[str]) -> set[Digest]:
        upstreams = self._shared.askable_for_blobs()
        if not upstreams:
            return missing
        left = await self._bringing.find_missing(missing)
        self._metrics.fetching.healed.labels(source="upstream").inc(len(missing) - len(left))
        answers += [f"{each.name}: {_answer(each)}" for each in upstreams]
        return left

    async def _from_peers(self, missing: set[Digest], answers: list[str]) -> set[Digest]:
        left, said = await self._peers.bring(missing)
        self._metrics.fetching.healed.labels(source="peer").inc(len(missing) - len(left))
        answers += [f"{each.name}: {each.said}" for each in said]
        return left

    async def _note_back(self, lost: Sequence[LostBlob], missing: Collection[Digest]) -> None:
        found_s = {each.digest: each.found_at_s for each in lost if each.digest not in missing}
        if not found_s:
            return
        now_s = self._clock.wall_s()
        for digest, origin in (await self._lost.note_back(found_s)).items():
            # The wall clock may have been set back in between.
            lost_s = round(max(0.0, now_s - found_s[digest]), 1)
            _log.warning("blob_healed", digest=str(digest), origin=origin, lost_for_s=lost_s)

    async def _put_off(self, lost: Sequence[LostBlob], answers: Sequence[str]) -> None:
        now_s, reason = self._clock.wall_s(), "; ".join(answers)
        attempts = []
        for each in lost:
            wait_s = again_in_s(each.tries + 1, self._jitter)
            again_at_s = None if wait_s is None else now_s + wait_s
            attempts.append(Attempt(each.digest, again_at_s, reason))
            # The first and the last failure: those between tell an operator nothing new.
            if not each.tries or wait_s is None:
                event = "blob_not_healed" if wait_s is not None else "blob_given_up"
                _log.error(event, digest=str(each.digest), answers=reason)
        await self._lost.put_off(attempts)


def _answer(upstream: Upstream) -> str:
    """Return why an upstream has not sent a blob, for people."""
    if upstream.breaker.last_error:
        return upstream.breaker.last_error
    return "did not send it" if upstream.is_up else upstream.state
