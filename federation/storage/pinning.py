"""Pins of an open data directory: federation.core.pins.Pins over the catalogue, and pinning itself.

A pin that an operator makes is tried first: everything that it matches is kept, and if that is more
than pins may take, the pin is refused and nothing of it stays. The record gets its number, and is
told to peers, when all of it fits. What a peer pins is looked for by upkeep/pin_keeper.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial

import apsw
import structlog

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
from federation.storage.catalogue import hlc, keepings, pins
from federation.storage.catalogue.pins import PinRow
from federation.storage.catalogue.transaction import Transaction
from federation.storage.context import StorageContext
from federation.storage.pin_walk import PinWalker, max_pinned_bytes

ENTRIES_AT_ONCE = 1000  # that are compared with pins
WALKS_AT_ONCE = 8  # their commits are durable together
_TOLD_EVERY_S = 30.0  # a command that shows no sign of life is taken for dead after minutes

_log = structlog.get_logger(__name__)


class CataloguePins:
    """See federation.core.pins.Pins."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<CataloguePins of {self._core.directory.root}>"

    async def apply(self, received: Sequence[Pin]) -> int:
        """See Pins. What is known already costs a look and no write."""
        for each in received:
            check_target(each.target)
        unknown = await self._core.look_up(lambda at: pins.unknown_of(at, received))
        if not unknown:
            return 0
        self._core.directory.volume.check_writable()
        return await self._core.writer.submit(lambda tx: _apply(tx, unknown))

    async def page(self, after: int, limit: int) -> PinPage:
        """See Pins."""
        rows = await self._core.look_up(lambda at: pins.page(at, after, limit))
        return PinPage([pin for _, pin in rows], rows[-1][0] if rows else after)

    async def pin(self, wanted: Pin, walker: PinWalker) -> PinReport:
        """Pin a target, or give its pin another date and note; return what it keeps.

        wanted: without a stamp. Raises InvalidRequest, SourceUnavailable, StorageFailed, and
        StorageFull if pins would take too much: nothing has changed then.
        """
        core = self._core
        check_target(wanted.target)
        core.directory.volume.check_writable()
        old = await core.look_up(lambda at: pins.get(at, wanted.target))
        wall_s = core.clock.wall_s()
        if old is not None and not old.pin.is_removed and not old.pin.has_ended(wall_s):
            await core.writer.submit(lambda tx: _store(tx, wanted))
        else:
            await self._try(wanted, walker)
        _log.info("pinned", target=wanted.label, until=wanted.until_s, by=wanted.by)
        return await core.look_up(lambda at: _report_of(at, wanted.target))

    async def _try(self, wanted: Pin, walker: PinWalker) -> None:
        core = self._core
        pin_id = await core.writer.submit(lambda tx: pins.begin_trial(tx, wanted))
        try:
            await self._keep_all(pin_id, wanted, walker)
            await core.writer.submit(lambda tx: pins.end_trial(tx, pin_id, _stamped(tx, wanted)))
        # Also when the command is interrupted: a trial that nobody goes on with keeps things for
        # minutes.
        except BaseException:
            await core.writer.submit(lambda tx: pins.drop_trial(tx, pin_id))
            raise

    async def _keep_all(self, pin_id: int, wanted: Pin, walker: PinWalker) -> None:
        core, after, told_s = self._core, 0, self._core.clock.monotonic_s()
        # For the message alone; what fits is decided under the write lock.
        before_bytes = await core.pool.query(keepings.total_bytes)
        if (blob := wanted.target.blob) is not None:
            self._check([await walker.keep_blob(pin_id, blob)], before_bytes)
            return
        matches = wanted.target.matcher()
        while page := await core.pool.query(pins.candidates, after, ENTRIES_AT_ONCE):
            after = page[-1].id
            found = [each.id for each in page if matches(each.key, each.label)]
            for at in range(0, len(found), WALKS_AT_ONCE):
                part = found[at : at + WALKS_AT_ONCE]
                walks = [walker.keep(pin_id, entry_id) for entry_id in part]
                self._check(await asyncio.gather(*walks), before_bytes)
                if core.clock.monotonic_s() > told_s + _TOLD_EVERY_S:
                    told_s = core.clock.monotonic_s()
                    await core.writer.submit(partial(pins.go_on_trying, pin_id=pin_id))

    def _check(self, states: Collection[KeptState | None], before_bytes: int) -> None:
        """Raise StorageFull if something was left out. before_bytes: what pins took before."""
        if KeptState.LEFT_OUT not in states:
            return
        most = max_pinned_bytes(self._core)
        raise StorageFull(
            f"pins may take {most} bytes (storage.pins-max is {self._core.settings.pins_max}) and "
            f"take {before_bytes} already; this would take more than the "
            f"{max(0, most - before_bytes)} that are left; nothing of it was pinned"
        )

    async def unpin(self, targets: Sequence[PinTarget], by: str) -> list[Pin]:
        """Remove the pins of these targets; return the records of those that there were."""
        self._core.directory.volume.check_writable()
        found = await self._core.writer.submit(lambda tx: _remove(tx, targets, by))
        for each in found:
            _log.info("unpinned", target=each.label, by=by)
        return found

    async def report(self) -> PinsReport:
        """Return all pins and what they keep."""
        most = max_pinned_bytes(self._core)
        return await self._core.look_up(lambda at: report_of(at, self._core.clock.wall_s(), most))


def report_of(connection: apsw.Connection, wall_s: float, max_bytes: int) -> PinsReport:
    """Return all pins that have not ended, and what they keep."""
    shown = [_report(connection, row) for row in pins.live(connection, wall_s) if not row.is_trial]
    return PinsReport(shown, keepings.total_bytes(connection), max_bytes)


def _report_of(connection: apsw.Connection, target: PinTarget) -> PinReport:
    row = pins.get(connection, target)
    assert row is not None  # it was stored a moment ago
    return _report(connection, row)


def _report(connection: apsw.Connection, row: PinRow) -> PinReport:
    kept = keepings.totals(connection, row.id)
    return PinReport(
        row.pin,
        is_settled=row.scanned,
        entries=kept.entries,
        blobs=kept.blobs,
        size_bytes=kept.size_bytes,
        incomplete=kept.incomplete,
        missing=kept.missing,
        left_out=kept.left_out,
    )


def _stamped(transaction: Transaction, wanted: Pin) -> Pin:
    old = pins.get(transaction.connection, wanted.target)
    stamp = transaction.next_stamp(0 if old is None else old.pin.stamp.ticks)
    return wanted._replace(stamp=stamp, at_s=transaction.wall_s)


def _store(transaction: Transaction, wanted: Pin) -> None:
    pins.store(transaction, _stamped(transaction, wanted))


def _remove(transaction: Transaction, targets: Sequence[PinTarget], by: str) -> list[Pin]:
    found = []
    for target in targets:
        old = pins.get(transaction.connection, target)
        if old is None or old.pin.is_removed:
            continue
        found.append(old.pin)
        _store(transaction, old.pin._replace(by=by, is_removed=True))
    return found


def _apply(transaction: Transaction, received: Sequence[Pin]) -> int:
    newer = 0
    for each in received:
        hlc.check(each.stamp, transaction.wall_s, transaction.drift_s)
    for each in received:
        if not pins.unknown_of(transaction.connection, [each]):  # a call may have a target twice
            continue
        is_over = each.has_ended(transaction.wall_s)
        # Nothing to end: a record of it would only take the place of others.
        if is_over and pins.get(transaction.connection, each.target) is None:
            continue
        transaction.observe(each.stamp)
        pins.store(transaction, each)
        newer += 1
    return newer
