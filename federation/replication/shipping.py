"""Blobs to one peer: what it lacks is sent, each once at a time, whoever needs it there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from federation.clock import Clock
from federation.digest import Digest
from federation.replication.confirmed import Confirmed
from federation.replication.failing import first_of
from federation.replication.outcome import PRESENT, TOO_FAR, UNKNOWN_FUNCTION, Outcome
from federation.replication.rules import may_go_on
from federation.replication.sending import Sender
from federation.replication.target import Target, Via
from federation.store import SMALL_BLOB_BYTES

_ASK_MAX = 2000  # blobs in one question

Told = Callable[[Digest, Outcome], None]


def _nobody(_digest: Digest, _outcome: Outcome) -> None:
    return None


class Shipper:
    """Sends to one peer from here."""

    def __init__(self, sender: Sender, target: Target, clock: Clock) -> None:
        self.confirmed = Confirmed(clock, lambda: target.identity.node_id)
        self.sender = sender
        self._target = target
        self._moving: dict[Digest, asyncio.Future[Outcome]] = {}

    def __repr__(self) -> str:
        return f"<Shipper {len(self._moving)} blobs moving, {self.sender!r}>"

    @property
    def moving(self) -> int:
        """How many blobs are on their way or asked about."""
        return len(self._moving)

    async def ship(
        self, digests: Iterable[Digest], via: Via, told: Told = _nobody
    ) -> dict[Digest, Outcome]:
        """See to it that the peer holds these; told() is called with each outcome as it is known.

        Raises what the store and the ledger raise when they cannot tell.
        """
        outcomes: dict[Digest, Outcome] = {}

        def end(digest: Digest, outcome: Outcome) -> None:
            outcomes[digest] = outcome
            told(digest, outcome)

        left = list(dict.fromkeys(digests))
        while left:
            mine: list[Digest] = []
            others: dict[Digest, asyncio.Future[Outcome]] = {}
            for digest in left:
                if digest.is_empty or digest in self.confirmed:
                    end(digest, PRESENT)
                elif (future := self._moving.get(digest)) is not None:
                    others[digest] = future
                else:
                    mine.append(digest)
            await self._move(mine, via, end)
            if others:
                await asyncio.wait(others.values())
            left = [digest for digest, future in others.items() if future.cancelled()]
            for digest, future in others.items():
                if not future.cancelled():
                    end(digest, future.result())
        return outcomes

    async def lacking(self, digests: Sequence[Digest], *, anew: bool = False) -> set[Digest]:
        """Return which of these the peer does not hold, sending none.

        anew: whatever it said a moment ago.
        """
        asked = [d for d in digests if not d.is_empty and (anew or d not in self.confirmed)]
        missing: set[Digest] = set()
        for at in range(0, len(asked), _ASK_MAX):
            missing |= await self.sender.ask(asked[at : at + _ASK_MAX])
        for digest in asked:
            if digest in missing:
                self.confirmed.discard(digest)
            else:
                self.confirmed.add(digest)
        return missing

    async def _move(self, mine: Sequence[Digest], via: Via, end: Told) -> None:
        loop = asyncio.get_running_loop()
        futures: dict[Digest, asyncio.Future[Outcome]] = {d: loop.create_future() for d in mine}
        self._moving.update(futures)

        def settle(digest: Digest, outcome: Outcome) -> None:
            if outcome.is_there:
                self.confirmed.add(digest)
            futures[digest].set_result(outcome)
            del self._moving[digest]
            end(digest, outcome)

        try:
            for at in range(0, len(mine), _ASK_MAX):
                await self._move_part(mine[at : at + _ASK_MAX], via, settle)
        finally:
            for digest, future in futures.items():
                if not future.done():
                    future.cancel()
                    del self._moving[digest]

    async def _move_part(self, mine: Sequence[Digest], via: Via, settle: Told) -> None:
        missing = await self.sender.ask(mine)
        lacking: list[Digest] = []
        for digest in mine:
            if digest not in missing:
                settle(digest, PRESENT)
            elif not may_go_on(via):
                settle(digest, TOO_FAR)
            elif not self._target.hashes_with(digest.function):
                settle(digest, UNKNOWN_FUNCTION)
            else:
                lacking.append(digest)
        small = [digest for digest in lacking if digest.size_bytes <= self._small_max()]
        large = [digest for digest in lacking if digest.size_bytes > self._small_max()]
        try:
            async with asyncio.TaskGroup() as group:
                for digest in large:
                    group.create_task(self.sender.send_large(digest, via, settle))
                for batch in self.sender.pace.cut(small, self._target.batch_bytes):
                    group.create_task(self.sender.send_batch(batch, via, settle))
        except ExceptionGroup as errors:
            raise first_of(errors) from None

    def _small_max(self) -> int:
        return min(self._target.batch_bytes // 2, SMALL_BLOB_BYTES)
