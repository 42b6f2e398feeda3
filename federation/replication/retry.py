"""What was set aside, tried again: when an operator asks, and by itself ever more rarely.

Each object by itself: one that takes long holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog

from federation.core.digest import Digest
from federation.core.index import EntryKey
from federation.core.replication_log import Parked
from federation.core.tasks import first_of
from federation.replication.entry_sender import EntryToSend, Hole
from federation.replication.outcomes import SUPERSEDED, Fate, SendOutcome
from federation.replication.peer_api import ObjectHistory
from federation.replication.session import PeerSession

_log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 2.0
AT_ONCE = 1000
_BLOBS_TOGETHER = 100  # are asked about in one question
WAITS_S = (10.0, 60.0, 360.0, 2160.0, 3600.0)  # after one try, two, ...


def is_due(parked: Parked, now_s: float) -> bool:
    """Whether it is to be tried again now, as ReplicationLog.parked_due decides."""
    wait_s = WAITS_S[min(parked.tries, len(WAITS_S)) - 1]
    # A date in the future comes from a clock that was set back: due at once, not after years.
    return parked.retry or not 0 <= now_s - parked.parked_at_s < wait_s


class Retry:
    """Retries what is parked for one peer."""

    def __init__(self, session: PeerSession) -> None:
        self._session = session
        self._trying: set[Digest | EntryKey] = set()
        self._ended: list[tuple[Parked, SendOutcome]] = []
        self._saving = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Retry of {self._session.name}, {len(self._trying)} under way>"

    async def run(self) -> None:
        """Retry due objects for ever. Raises the errors of the store and the change log."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._save())
                while True:
                    await self._session.clock.sleep(_LOOK_EVERY_S)
                    await self._poll(group.create_task)
        except ExceptionGroup as errors:
            raise first_of(errors) from None

    async def _poll(self, start: Callable[..., object]) -> None:
        """Start retries that are due and not running."""
        session, room = self._session, AT_ONCE - len(self._trying)
        # The short question first: nearly always nothing is parked.
        if room <= 0 or not (await session.change_log.parked_counts()).get(session.name):
            return
        found = await session.change_log.parked_due(
            session.name, session.clock.wall_s(), WAITS_S, AT_ONCE
        )
        # Objects under way are still due in the table, so AT_ONCE are read, though there is room
        # for fewer.
        due = [each for each in found if _object(each) not in self._trying][:room]
        self._trying.update(map(_object, due))
        blobs = [each for each in due if each.digest is not None]
        for at in range(0, len(blobs), _BLOBS_TOGETHER):
            start(self._try_blobs(blobs[at : at + _BLOBS_TOGETHER]))
        for each in due:
            if each.key is not None:
                start(self._try_entry(each, each.key))

    async def _try_blobs(self, blobs: Iterable[Parked]) -> None:
        by_digest = {each.digest: each for each in blobs if each.digest is not None}

        def on_outcome(digests: Sequence[Digest], outcome: SendOutcome) -> None:
            for digest in digests:
                self._end(by_digest[digest], outcome)

        await self._session.shipper.ship(by_digest, ObjectHistory(), on_outcome)

    async def _try_entry(self, parked: Parked, key: EntryKey) -> None:
        session = self._session
        (now,) = await session.change_log.heads_at([key])
        # 0: a walk parked it, which offers whatever the name has now.
        if now is None or (parked.seq and now.seq > parked.seq):
            self._end(parked, SUPERSEDED)  # the newer row is handled on its own
            return
        bounds = session.rules.of_entry(now.key, now.label).bounds
        # It has waited longer than any push takes, so it does not wait for its blobs again.
        offer = EntryToSend(now, (), bounds, Hole.PARK, True, not session.node_id)
        self._end(parked, await session.entries.send(offer))

    def _end(self, parked: Parked, outcome: SendOutcome) -> None:
        self._ended.append((parked, outcome))
        self._saving.set()

    async def _save(self) -> None:
        """Store the outcomes of retries, those that end together in one step."""
        session = self._session
        while True:
            await self._saving.wait()
            self._saving.clear()
            ends, self._ended = self._ended, []
            now_s = session.clock.wall_s()
            again = [
                each._replace(reason=outcome.reason, parked_at_s=now_s)
                for each, outcome in ends
                if outcome.fate is Fate.PARKED
            ]
            done = [each for each in ends if each[1].fate is not Fate.PARKED]
            if again:
                await session.change_log.park(again)
            if done:
                await session.change_log.unpark([each for each, _ in done])
            for each, outcome in done:
                if outcome is not SUPERSEDED:
                    session.count(outcome, each.digest.size_bytes if each.digest else 0)
                _log.info("parked_object_ended", peer=each.peer, object=each.label)
            # Only now that it is stored: until then the table calls them due.
            self._trying.difference_update(_object(each) for each, _ in ends)


def _object(parked: Parked) -> Digest | EntryKey:
    thing = parked.digest if parked.digest is not None else parked.key
    assert thing is not None
    return thing
