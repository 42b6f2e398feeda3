"""Pins of an open storage: federation.core.pins.Pins over its tables, and pinning itself.

A pin that an operator makes is tried first: everything that it matches is kept, and if that is more
than pins may take, the pin is refused and nothing of it stays. The record gets its number, and is
told to peers, when all of it fits. What a peer pins is looked for by upkeep/pin_keeper.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Generic

import structlog

from federation.core.clock import Clock
from federation.core.errors import StorageFull
from federation.core.pins import (
    KeptState,
    Pin,
    PinPage,
    PinReport,
    PinsReport,
    PinTarget,
    check_target,
)
from federation.storage.pin_tables import E, Keepings, PinRecords, report_of, reports_of
from federation.storage.pin_walk import PinWalker

ENTRIES_AT_ONCE = 1000  # that are compared with pins
WALKS_AT_ONCE = 8  # their commits are durable together
_TOLD_EVERY_S = 30.0  # a command that shows no sign of life is taken for dead after minutes

_log = structlog.get_logger(__name__)


class StoredPins(Generic[E]):
    """See federation.core.pins.Pins."""

    def __init__(self, records: PinRecords, keepings: Keepings[E], clock: Clock) -> None:
        self.records = records
        self.keepings = keepings
        self._clock = clock

    def __repr__(self) -> str:
        return f"<StoredPins in {self.records!r}>"

    async def apply(self, received: Sequence[Pin]) -> int:
        """See Pins. What is known already costs a look and no write."""
        for each in received:
            check_target(each.target)
        unknown = await self.records.unknown_of(received)
        return await self.records.apply(unknown) if unknown else 0

    async def page(self, after: int, limit: int) -> PinPage:
        """See Pins."""
        rows = await self.records.page(after, limit)
        return PinPage([pin for _, pin in rows], rows[-1][0] if rows else after)

    async def pin(self, wanted: Pin, walker: PinWalker[E]) -> PinReport:
        """Pin a target, or give its pin another date and note; return what it keeps.

        wanted: without a stamp. Raises InvalidRequest, SourceUnavailable, StorageFailed, and
        StorageFull if pins would take too much: nothing has changed then.
        """
        check_target(wanted.target)
        old = await self.records.get(wanted.target)
        wall_s = self._clock.wall_s()
        if old is not None and not old.pin.is_removed and not old.pin.has_ended(wall_s):
            await self.records.store(wanted)
        else:
            await self._try(wanted, walker)
        _log.info("pinned", target=wanted.label, until=wanted.until_s, by=wanted.by)
        return await self._report_of(wanted.target)

    async def _try(self, wanted: Pin, walker: PinWalker[E]) -> None:
        pin_id = await self.records.begin_trial(wanted)
        try:
            await self._keep_all(pin_id, wanted, walker)
            await self.records.end_trial(pin_id, wanted)
        # Also when the command is interrupted: a trial that nobody goes on with keeps things for
        # minutes.
        except BaseException:
            await self.records.drop_trial(pin_id)
            raise

    async def _keep_all(self, pin_id: int, wanted: Pin, walker: PinWalker[E]) -> None:
        after, told_s = None, self._clock.monotonic_s()
        # For the message alone; what fits is decided in each transaction.
        before_bytes = await self.keepings.total_bytes()
        if (blob := wanted.target.blob) is not None:
            self._check([await walker.keep_blob(pin_id, blob)], before_bytes)
            return
        matches = wanted.target.matcher()
        while page := await self.keepings.candidates(after, ENTRIES_AT_ONCE):
            after = page[-1].id
            found = [each.id for each in page if matches(each.key, each.label)]
            for at in range(0, len(found), WALKS_AT_ONCE):
                part = found[at : at + WALKS_AT_ONCE]
                walks = [walker.keep(pin_id, entry) for entry in part]
                self._check(await asyncio.gather(*walks), before_bytes)
                if self._clock.monotonic_s() > told_s + _TOLD_EVERY_S:
                    told_s = self._clock.monotonic_s()
                    await self.records.go_on_trying(pin_id)

    def _check(self, states: Collection[KeptState | None], before_bytes: int) -> None:
        """Raise StorageFull if something was left out. before_bytes: what pins took before."""
        if KeptState.LEFT_OUT not in states:
            return
        most = self.keepings.max_bytes()
        raise StorageFull(
            f"pins may take {most} bytes (storage.pins-max) and take {before_bytes} already; this "
            f"would take more than the {max(0, most - before_bytes)} that are left; nothing of it "
            "was pinned"
        )

    async def unpin(self, targets: Sequence[PinTarget], by: str) -> list[Pin]:
        """Remove the pins of these targets; return the records of those that there were."""
        found = await self.records.remove(targets, by)
        for each in found:
            _log.info("unpinned", target=each.label, by=by)
        return found

    async def report(self) -> PinsReport:
        """Return all pins and what they keep."""
        live, kept = await self.records.live(), await self.keepings.totals()
        shown = reports_of(live, kept)
        return PinsReport(shown, await self.keepings.total_bytes(), self.keepings.max_bytes())

    async def _report_of(self, target: PinTarget) -> PinReport:
        row = await self.records.get(target)
        assert row is not None  # it was stored a moment ago
        return report_of(row, await self.keepings.totals(row.id))
