"""What was set aside, tried again: when an operator asks, and by itself ever more rarely."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from federation.core.digest import Digest
from federation.core.replication_log import Parked
from federation.core.store import EntryKey
from federation.replication.entry_sender import EntryToSend, Hole
from federation.replication.outcome import Fate, SendOutcome
from federation.replication.session import PeerSession

_log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 2.0
_AT_ONCE = 1000
_FIRST_S, _GROWTH, _LONGEST_S = 10.0, 6, 3600.0


def is_due(parked: Parked, now_s: float) -> bool:
    """Whether it is to be tried again now."""
    if parked.retry:
        return True
    delay_s = min(_LONGEST_S, _FIRST_S * _GROWTH ** min(parked.tries - 1, 10))
    return not 0 <= now_s - parked.parked_at_s < delay_s  # a clock set back does not hold it up


class Retry:
    """Goes over what is parked for one peer."""

    def __init__(self, link: PeerSession) -> None:
        self._link = link

    def __repr__(self) -> str:
        return f"<Retry of {self._link.name}>"

    async def run(self) -> None:
        """Look again and again. Raises what the store and the ledger raise."""
        while True:
            await self._link.clock.sleep(_LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Try what is due."""
        link = self._link
        if not (await link.ledger.parked_counts()).get(link.name):
            return
        now_s = link.clock.wall_s()
        due = [p for p in await link.ledger.parked(link.name, _AT_ONCE) if is_due(p, now_s)]
        if not due:
            return
        blobs = {each.digest: each for each in due if each.digest is not None}
        await self._try_blobs(blobs)
        await self._try_entries({each.key: each for each in due if each.key is not None})

    async def _try_blobs(self, blobs: dict[Digest, Parked]) -> None:
        if blobs:
            outcomes = await self._link.shipper.ship(blobs, ())
            await self._end([(blobs[digest], outcome) for digest, outcome in outcomes.items()])

    async def _try_entries(self, entries: dict[EntryKey, Parked]) -> None:
        link = self._link
        if not entries:
            return
        ends: list[tuple[Parked, SendOutcome]] = []
        gone: list[Parked] = []
        async with link.entries.reading(list(entries)) as found:
            for parked, now in zip(entries.values(), found, strict=True):
                if now is None or (parked.seq and now[0] > parked.seq):
                    gone.append(parked)  # what came after it was seen to by itself
                    continue
                seq, entry = now
                bounds = link.rules.of_entry(entry.key, entry.label).bounds
                offer = EntryToSend(seq, entry, (), bounds, Hole.PARK, True, not link.node_id)
                ends.append((parked, await link.entries.send(offer)))
        await link.ledger.unpark(gone)
        await self._end(ends)

    async def _end(self, ends: Sequence[tuple[Parked, SendOutcome]]) -> None:
        link = self._link
        again = [
            each._replace(reason=outcome.reason, parked_at_s=link.clock.wall_s())
            for each, outcome in ends
            if outcome.fate is Fate.PARKED
        ]
        ended = [each for each, outcome in ends if outcome.fate is not Fate.PARKED]
        await link.ledger.park(again)
        await link.ledger.unpark(ended)
        for each, outcome in ends:
            if outcome.fate is not Fate.PARKED:
                link.count(outcome, each.digest.size_bytes if each.digest else 0)
                _log.info("parked_object_ended", peer=each.peer, object=each.label)
