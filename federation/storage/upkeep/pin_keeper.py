"""Keeps what pins name, as entries come and go. Used by the holder of the maintenance lock.

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
from functools import partial

import apsw
import structlog

from federation.core.errors import FederationError
from federation.core.pins import KeptState
from federation.observability.rate_limits import Complaints
from federation.storage.catalogue import change_log, ended_keepings, keepings, pins
from federation.storage.catalogue.keepings import Keeping
from federation.storage.catalogue.pins import PinnableEntry, PinRow
from federation.storage.catalogue.transaction import get_meta, read_totals, set_meta
from federation.storage.context import StorageContext
from federation.storage.pin_walk import PinWalker, max_pinned_bytes
from federation.storage.pinning import ENTRIES_AT_ONCE, WALKS_AT_ONCE

_LOOK_EVERY_S = 1.0
_REST = 4.0  # after work it rests that many times as long
_REST_MAX_S = 0.5  # a slow disk is no reason to take for ever
_TRIED_MS = 600_000  # after that time without a sign of it, a command that pins has died
_ROWS_AT_ONCE = 5000  # of the change log
_DUE_AT_ONCE = 32
_GIVEN_BACK_AT_ONCE = 1000
_ROOM_SHARE = 0.9  # what was left out is not tried again while pins take more of what they may

_log = structlog.get_logger(__name__)


class _Live:
    """The pins in force, ready to be compared with entries."""

    def __init__(self, rows: Iterable[PinRow]) -> None:
        self.rows = [(row, row.pin.target.matcher()) for row in rows]

    def found_in(self, page: Iterable[PinnableEntry]) -> list[tuple[int, int]]:
        """Return (pin id, entry id) of each match. Calls as many functions as pins for each."""
        return [
            (row.id, each.id)
            for each in page
            for row, matches in self.rows
            if matches(each.key, each.label)
        ]


class PinKeeper:
    """See the module."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._complaints = Complaints(_log, core.clock)
        self.walker: PinWalker | None = None  # what can walk through closures; it is set later

    def __repr__(self) -> str:
        return f"<PinKeeper {'walks' if self.walker else 'waits'}>"

    async def run(self) -> None:
        """Work until cancelled."""
        clock = self._core.clock
        while True:
            begun_s = clock.monotonic_s()
            try:
                await self.step()
            except (FederationError, OSError, apsw.Error) as error:  # the disk; it may come back
                self._complaints.warn("pins_wait", error)
            await self._rest(begun_s, _LOOK_EVERY_S)

    async def step(self) -> None:
        """Do all that is due now. Raises SourceUnavailable, StorageFull, StorageFailed."""
        core = self._core
        if not await core.pool.query(pins.are_any):
            return
        await self._end_pins()
        live = await core.pool.query(pins.live, core.clock.wall_s())
        if live and self.walker is not None:
            await self._follow(self.walker)
            await self._scan(live, self.walker)
            await self._try_again(self.walker)
        # Without a walk nobody can tell what other pins still need.
        knows_all = self.walker is not None or not live
        if knows_all and await core.pool.query(ended_keepings.is_return_due, core.now_ms()):
            await self._give_back()

    async def _end_pins(self) -> None:
        core = self._core
        wall_s, tried_before_ms = core.clock.wall_s(), core.now_ms() - _TRIED_MS
        if not await core.pool.query(pins.over, wall_s, tried_before_ms):
            return
        for row in await core.writer.submit(lambda tx: pins.end_over(tx, wall_s, tried_before_ms)):
            _log.info("pin_ended", target=row.pin.label, until=row.pin.until_s)

    # -- entries ---------------------------------------------------------------------------

    async def _follow(self, walker: PinWalker) -> bool:
        """Look at the entries that were written since the last time; without rest, to keep up.

        Returns False if the change log did not reach back far enough: all have to be looked at.
        """
        core = self._core
        has_all = True
        while True:
            at, head, is_whole, rows = await core.pool.query(_position, core.clock.wall_s())
            if at == head:
                return has_all
            if not is_whole:
                _log.info("pins_scan", reason="the change log does not reach back far enough")
                await core.writer.submit(partial(pins.set_scanned, rows=rows, is_scanned=False))
                has_all, upto = False, head
            else:
                upto = min(head, at + _ROWS_AT_ONCE)
                page = await core.pool.query(pins.changed, at, upto)
                await self._keep(_Live(rows), page, walker, rests=False)
            # Behind the work: what is cut off is looked at again.
            await core.writer.submit(partial(set_meta, name=pins.FOLLOWED, value=upto))

    async def _scan(self, live: Sequence[PinRow], walker: PinWalker) -> None:
        """Look at all entries for the pins for which that was not done."""
        core, after = self._core, 0
        # A trial is scanned by its own command.
        rows = [row for row in live if not row.scanned and not row.is_trial]
        if not rows:
            return
        new = _Live(rows)
        for row in rows:
            if (blob := row.pin.target.blob) is not None:
                await walker.keep_blob(row.id, blob)
        while page := await core.pool.query(pins.candidates, after, ENTRIES_AT_ONCE):
            after = page[-1].id
            await self._keep(new, page, walker, rests=True)
            if not await self._follow(walker):  # its entries are leased for hours only
                return  # what was looked at may have changed: the next step begins again
        await core.writer.submit(partial(pins.set_scanned, rows=rows, is_scanned=True))

    async def _keep(
        self, live: _Live, page: Sequence[PinnableEntry], walker: PinWalker, *, rests: bool
    ) -> None:
        found = await self._core.pool.run(live.found_in, page)
        left_out = 0
        for at in range(0, len(found), WALKS_AT_ONCE):
            begun_s = self._core.clock.monotonic_s()
            walks = [walker.keep(*each) for each in found[at : at + WALKS_AT_ONCE]]
            states = await asyncio.gather(*walks)
            left_out += sum(state is KeptState.LEFT_OUT for state in states)
            if rests:
                await self._rest(begun_s, 0.0)
        if left_out:
            self._complaints.warn(
                "pins_full",
                f"{left_out} entries that pins match were not pinned: pins take as much as "
                "storage.pins-max allows",
            )

    async def _try_again(self, walker: PinWalker) -> None:
        """Look again at what was incomplete, or did not fit."""
        core = self._core
        while due := await core.pool.query(keepings.due, core.now_ms(), _DUE_AT_ONCE):
            most = max_pinned_bytes(core) * _ROOM_SHARE
            # Below the bound by some room, or one entry would go in and out at each try.
            if await core.pool.query(keepings.total_bytes) >= most:
                waiting = [each for each in due if each.state == KeptState.LEFT_OUT]
                due = [each for each in due if each.state != KeptState.LEFT_OUT]
                await core.writer.submit(partial(keepings.put_off, waiting=waiting))
            await self._look_again(due, walker)

    async def _look_again(self, found: Sequence[Keeping], walker: PinWalker) -> None:
        for each in found:
            begun_s = self._core.clock.monotonic_s()
            if each.entry_id:
                await walker.keep(each.pin_id, each.entry_id)
            else:
                target = await self._core.pool.query(pins.target_of, each.pin_id)
                if target is not None and target.blob is not None:
                    await walker.keep_blob(each.pin_id, target.blob)
            await self._rest(begun_s, 0.0)

    async def _rest(self, begun_s: float, least_s: float) -> None:
        """Leave the processor to others for some time after work that began at begun_s."""
        took_s = self._core.clock.monotonic_s() - begun_s
        await self._core.clock.sleep(max(least_s, min(_REST_MAX_S, took_s * _REST)))

    # -- giving back -----------------------------------------------------------------------

    async def _give_back(self) -> None:
        """Give back what nothing needs any more of what keepings have left."""
        core, walker = self._core, self.walker
        # Before everything else is looked at: what ends meanwhile is of the next round.
        ended = await core.pool.query(ended_keepings.ended)
        after = 0
        while walker and (found := await core.pool.query(keepings.after, after, ENTRIES_AT_ONCE)):
            after = found[-1].id
            await self._look_again(found, walker)
            await self._follow(walker)
        ids = frozenset(ended)
        for table, first in ended_keepings.FIRST.items():
            place: ended_keepings.Place | None = first
            while place is not None:
                place = await core.writer.submit(
                    partial(
                        ended_keepings.give_back,
                        table=table,
                        ended_ids=ids,
                        after=place,
                        limit=_GIVEN_BACK_AT_ONCE,
                    )
                )
        for at in range(0, len(ended), _GIVEN_BACK_AT_ONCE):
            part = ended[at : at + _GIVEN_BACK_AT_ONCE]
            await core.writer.submit(partial(ended_keepings.forget, ended_ids=part))
        _log.info("pins_given_back", ended=len(ended))


def _position(connection: apsw.Connection, wall_s: float) -> tuple[int, int, bool, list[PinRow]]:
    """Return the last row looked at, the newest one, whether all in between are there, and pins.

    All as of one moment: a pin that is newer looks at what was written before it by itself.
    """
    with connection:
        head = read_totals(connection).seq
        at = min(head, int(get_meta(connection, pins.FOLLOWED) or 0))
        is_whole = at == head or change_log.reaches_back_to(connection, at + 1)
        rows = [] if at == head else pins.live(connection, wall_s)
    return at, head, is_whole, rows
