"""Keeps what pins name, as entries come and go. Used by the process that leads the upkeep.

It follows the change log, looks at all entries for a pin that is new from a peer, tries again what
was incomplete or did not fit, and ends pins whose date has passed. What an ended pin or a replaced
entry has kept is given back after everything else was looked at: what that needs, too, it takes
over first. Until then it stays kept, and counts.

New objects are leased for hours, so nothing of them is evicted before this has seen them, and
writes have nothing to do with pins. All that it knows is in the catalogue; where it was cut off it
begins again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Generic

import apsw
import structlog

from federation.core.clock import Clock
from federation.core.errors import FederationError
from federation.core.pins import KeptState
from federation.observability.rate_limits import Complaints
from federation.storage.pin_tables import E, Keeping, Keepings, PinnableEntry, PinRecords, PinRow
from federation.storage.pin_walk import PinWalker
from federation.storage.pinning import ENTRIES_AT_ONCE, WALKS_AT_ONCE

_LOOK_EVERY_S = 1.0
_REST = 4.0  # after work it rests that many times as long
_REST_MAX_S = 0.5  # a slow disk is no reason to take for ever
_ROWS_AT_ONCE = 5000  # of the change log
_DUE_AT_ONCE = 32
_ROOM_SHARE = 0.9  # what was left out is not tried again while pins take more of what they may

_log = structlog.get_logger(__name__)


class _Live(Generic[E]):
    """The pins in force, ready to be compared with entries."""

    def __init__(self, rows: Iterable[PinRow]) -> None:
        self.rows = [(row, row.pin.target.matcher()) for row in rows]

    def found_in(self, page: Iterable[PinnableEntry[E]]) -> list[tuple[int, E]]:
        """Return (pin id, entry) of each match. Calls as many functions as pins for each."""
        return [
            (row.id, each.id)
            for each in page
            for row, matches in self.rows
            if matches(each.key, each.label)
        ]


class PinKeeper(Generic[E]):
    """See the module."""

    def __init__(self, records: PinRecords, keepings: Keepings[E], clock: Clock) -> None:
        self._records = records
        self._keepings = keepings
        self._clock = clock
        self._complaints = Complaints(_log, clock)
        self.walker: PinWalker[E] | None = None  # what can walk through closures; it is set later

    def __repr__(self) -> str:
        return f"<PinKeeper {'walks' if self.walker else 'waits'}>"

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            begun_s = self._clock.monotonic_s()
            try:
                await self.step()
            except (FederationError, OSError, apsw.Error) as error:  # the disk; it may come back
                self.complain(error)
            await self._rest(begun_s, _LOOK_EVERY_S)

    def complain(self, error: Exception) -> None:
        """Log what ended a step, unless that was logged a moment ago."""
        self._complaints.warn("pins_wait", error)

    async def step(self) -> None:
        """Do all that is due now. Raises SourceUnavailable, StorageFull, StorageFailed."""
        if not await self._records.are_any():
            return
        for row in await self._records.end_over():
            _log.info("pin_ended", target=row.pin.label, until=row.pin.until_s)
        while await self._keepings.end_some():
            continue
        live = await self._records.live()
        if live and self.walker is not None:
            await self._follow(self.walker)
            await self._scan(live, self.walker)
            await self._try_again(self.walker)
        # Without a walk nobody can tell what other pins still need.
        knows_all = self.walker is not None or not live
        if knows_all and await self._keepings.is_return_due():
            await self._give_back()

    # -- entries ---------------------------------------------------------------------------

    async def _follow(self, walker: PinWalker[E]) -> bool:
        """Look at the entries that were written since the last time; without rest, to keep up.

        Returns False if the change log did not reach back far enough: all have to be looked at.
        """
        has_all = True
        while True:
            at, head, is_whole, rows = await self._records.followed()
            if at == head:
                return has_all
            if not is_whole:
                _log.info("pins_scan", reason="the change log does not reach back far enough")
                await self._records.set_scanned(rows, is_scanned=False)
                has_all, upto = False, head
            else:
                upto = min(head, at + _ROWS_AT_ONCE)
                page = await self._keepings.changed(at, upto)
                for lot in await self._lots(_Live(rows), page):
                    await self._keep(lot, walker)
            # After the work: if that was interrupted, these rows are looked at again.
            await self._records.set_followed(upto)

    async def _scan(self, live: Sequence[PinRow], walker: PinWalker[E]) -> None:
        """Look at all entries for the pins for which that was not done."""
        after: E | None = None
        # A trial is scanned by its own command.
        rows = [row for row in live if not row.scanned and not row.is_trial]
        if not rows:
            return
        new: _Live[E] = _Live(rows)
        for row in rows:
            if (blob := row.pin.target.blob) is not None:
                await walker.keep_blob(row.id, blob)
        while page := await self._keepings.candidates(after, ENTRIES_AT_ONCE):
            after = page[-1].id
            for lot in await self._lots(new, page) or [[]]:
                begun_s = self._clock.monotonic_s()
                await self._keep(lot, walker)
                await self._rest(begun_s, 0.0)
                # After each lot, and each page without one: what comes is leased for hours only,
                # and fetching what a whole page lacks, or looking at all pages, may take as long.
                if not await self._follow(walker):
                    return  # what was looked at may have changed: the next step begins again
        await self._records.set_scanned(rows, is_scanned=True)

    async def _lots(
        self, live: _Live[E], page: Sequence[PinnableEntry[E]]
    ) -> list[list[tuple[int, E]]]:
        """Return what matches of a page, by as many as are walked at once."""
        found = await asyncio.to_thread(live.found_in, page)
        return [found[at : at + WALKS_AT_ONCE] for at in range(0, len(found), WALKS_AT_ONCE)]

    async def _keep(self, lot: Sequence[tuple[int, E]], walker: PinWalker[E]) -> None:
        states = await asyncio.gather(*(walker.keep(*each) for each in lot))
        if KeptState.LEFT_OUT in states:
            self._complaints.warn(
                "pins_full",
                "entries that pins match were not pinned: pins take as much as storage.pins-max "
                "allows",
            )

    async def _try_again(self, walker: PinWalker[E]) -> None:
        """Look again at what was incomplete, or did not fit."""
        while due := await self._keepings.due(_DUE_AT_ONCE):
            most = self._keepings.max_bytes() * _ROOM_SHARE
            # Below the bound by some room, or one entry would go in and out at each try.
            if await self._keepings.total_bytes() >= most:
                waiting = [each for each in due if each.state == KeptState.LEFT_OUT]
                due = [each for each in due if each.state != KeptState.LEFT_OUT]
                await self._keepings.put_off(waiting)
            await self._look_again(due, walker)
            await self._follow(walker)  # fetching may have taken long

    async def _look_again(self, found: Sequence[Keeping[E]], walker: PinWalker[E]) -> None:
        for each in found:
            begun_s = self._clock.monotonic_s()
            if each.entry is not None:
                await walker.keep(each.pin_id, each.entry)
            else:
                target = await self._records.target_of(each.pin_id)
                if target is not None and target.blob is not None:
                    await walker.keep_blob(each.pin_id, target.blob)
            await self._rest(begun_s, 0.0)

    async def _rest(self, begun_s: float, least_s: float) -> None:
        """Leave the processor to others for some time after work that began at begun_s."""
        took_s = self._clock.monotonic_s() - begun_s
        await self._clock.sleep(max(least_s, min(_REST_MAX_S, took_s * _REST)))

    # -- giving back -----------------------------------------------------------------------

    async def _give_back(self) -> None:
        """Give back what nothing needs any more of what keepings have left."""
        keepings, walker = self._keepings, self.walker
        # Before everything else is looked at: what ends meanwhile is of the next round.
        ended = await keepings.begin_return()
        after = 0
        while walker and (found := await keepings.after(after, ENTRIES_AT_ONCE)):
            after = found[-1].id
            await self._look_again(found, walker)
            await self._follow(walker)
        await keepings.give_back()
        _log.info("pins_given_back", ended=ended)
