"""Blobs for one peer: those it lacks are sent, each once at a time, whoever asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from federation.core.clock import Clock
from federation.core.digest import Digest, DigestFunction
from federation.core.store import SMALL_BLOB_BYTES
from federation.core.tasks import first_of
from federation.replication.blob_sender import Sender
from federation.replication.existence_cache import ConfirmedBlobs
from federation.replication.outcomes import PRESENT, TOO_FAR, UNKNOWN_FUNCTION, SendOutcome
from federation.replication.peer_api import ObjectHistory, PeerApi
from federation.replication.purge_sender import PurgeSender
from federation.replication.rules import may_go_on

_ASK_MAX = 2000  # blobs in one question

# Called for many blobs at once: calls one by one would take longer than sending the batch.
OnOutcome = Callable[[Sequence[Digest], SendOutcome], None]


def _nobody(_digests: Sequence[Digest], _outcome: SendOutcome) -> None:
    return None


class Shipper:
    """Sends blobs to one peer."""

    def __init__(self, sender: Sender, api: PeerApi, purges: PurgeSender, clock: Clock) -> None:
        self.confirmed = ConfirmedBlobs(clock, lambda: api.identity.node_id)
        self.sender = sender
        self._api = api
        self.purges = purges
        self._purges_told = 0  # counts, so that answers from before are not believed
        purges.watch(self._on_purges)
        self._moving: dict[Digest, asyncio.Future[SendOutcome] | None] = {}  # None: nobody waits

    def __repr__(self) -> str:
        return f"<Shipper {len(self._moving)} blobs moving, {self.sender!r}>"

    @property
    def moving(self) -> int:
        """How many blobs are being sent or asked about."""
        return len(self._moving)

    async def ship(
        self,
        digests: Iterable[Digest],
        history: ObjectHistory,
        on_outcome: OnOutcome = _nobody,
        *,
        is_behind: bool = False,
    ) -> dict[Digest, SendOutcome]:
        """Bring these to the peer; on_outcome is called as outcomes become known.

        is_behind: leave live traffic its share of the batches under way.

        Raises the errors of the store and the change log.
        """
        outcomes: dict[Digest, SendOutcome] = {}

        def end(ended: Sequence[Digest], outcome: SendOutcome) -> None:
            outcomes.update(dict.fromkeys(ended, outcome))
            on_outcome(ended, outcome)

        await self.purges.bring()
        left = list(dict.fromkeys(digests))  # in order: a simulation has to be replayed
        while left:
            known = self.confirmed.among(left)
            if there := [digest for digest in left if digest in known or digest.is_empty]:
                end(there, PRESENT)
            rest = [digest for digest in left if digest not in outcomes]
            # Before any await, or two callers would both send the same blob.
            others = {digest: self._ended(digest) for digest in rest if digest in self._moving}
            await self._move(
                [digest for digest in rest if digest not in others], history, end, is_behind
            )
            if others:
                await asyncio.wait(others.values())
            # Their sender was stopped, or knew less of purges: they are tried again here.
            left = [digest for digest, future in others.items() if future.cancelled()]
            for digest, future in others.items():
                if not future.cancelled():
                    end([digest], future.result())
        return outcomes

    def _ended(self, digest: Digest) -> asyncio.Future[SendOutcome]:
        """Return a future for the outcome of a blob that is being sent."""
        future = self._moving[digest]
        if future is None:
            future = self._moving[digest] = asyncio.get_running_loop().create_future()
        return future

    async def lacking(self, digests: Sequence[Digest], *, anew: bool = False) -> set[Digest]:
        """Return which of these the peer lacks, sending none.

        anew: ask even about those that it confirmed a moment ago.
        """
        await self.purges.bring()
        known = set() if anew else self.confirmed.among(digests)
        told = self._purges_told
        asked = [d for d in digests if d not in known and not d.is_empty]
        missing: set[Digest] = set()
        for at in range(0, len(asked), _ASK_MAX):
            missing |= await self.sender.ask(asked[at : at + _ASK_MAX])
        for digest in missing:
            self.confirmed.discard(digest)
        # Records told meanwhile may have taken from the peer what it called present just before.
        if told == self._purges_told:
            self.confirmed.add(*(digest for digest in asked if digest not in missing))
        return missing

    async def absent(self, digests: Sequence[Digest]) -> set[Digest]:
        """Return which of these the peer seems to lack: see PeerApi.find_absent.

        What seems to be held is not noted as confirmed: the peer has promised nothing.
        """
        await self.purges.bring()
        return await self.sender.find_absent([d for d in digests if not d.is_empty])

    async def _move(
        self, mine: Sequence[Digest], history: ObjectHistory, end: OnOutcome, is_behind: bool
    ) -> None:
        self._moving.update(dict.fromkeys(mine))
        left = set(mine)
        told = self._purges_told

        def settle(digests: Sequence[Digest], outcome: SendOutcome) -> None:
            is_current = told == self._purges_told
            if outcome.is_there and is_current:
                self.confirmed.add(*digests)
            left.difference_update(digests)
            for digest in digests:
                future = self._moving.pop(digest)
                if future is not None and is_current:
                    future.set_result(outcome)
                elif future is not None:
                    future.cancel()  # who waits asks again
            end(digests, outcome)

        try:
            for at in range(0, len(mine), _ASK_MAX):
                await self._move_part(mine[at : at + _ASK_MAX], history, settle, is_behind)
        finally:
            # After a failure nobody may wait for an outcome that does not come.
            for digest in left:
                future = self._moving.pop(digest)
                if future is not None:
                    future.cancel()

    async def _move_part(
        self, mine: Sequence[Digest], history: ObjectHistory, settle: OnOutcome, is_behind: bool
    ) -> None:
        missing = await self.sender.ask(mine)
        if present := [digest for digest in mine if digest not in missing]:
            settle(present, PRESENT)
        lacking = [digest for digest in mine if digest in missing]
        # Only now: what the peer holds counts as delivered, whichever way it came.
        if lacking and not may_go_on(history.via):
            settle(lacking, TOO_FAR)
            return
        known = {f for f in DigestFunction if self._api.hashes_with(f)}
        if unknown := [digest for digest in lacking if digest.function not in known]:
            settle(unknown, UNKNOWN_FUNCTION)
        small_max = self._small_max()
        lacking = [digest for digest in lacking if digest.function in known]
        small = [digest for digest in lacking if digest.size_bytes <= small_max]
        large = [digest for digest in lacking if digest.size_bytes > small_max]
        try:
            async with asyncio.TaskGroup() as group:
                for digest in large:
                    group.create_task(self.sender.send_large(digest, history, settle))
                send = self.sender.send_behind if is_behind else self.sender.send_small
                group.create_task(send(small, history, settle))
        except ExceptionGroup as errors:
            raise first_of(errors) from None

    def _on_purges(self, digests: Collection[Digest]) -> None:
        """Forget what the peer said of blobs that it was just told about."""
        if digests:
            self._purges_told += 1
            for digest in digests:
                self.confirmed.discard(digest)

    def _small_max(self) -> int:
        # Half, so that every batch has room for two: one blob in each would cost a call for each.
        return min(self._api.batch_bytes // 2, SMALL_BLOB_BYTES)
