"""The tables of pins of an open data directory: see pin_tables.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

import apsw

from federation.config.types import share_of
from federation.core.index import Entry
from federation.core.pins import Pin, PinTarget
from federation.storage.catalogue import change_log, ended_keepings, entries, hlc, keepings, pins
from federation.storage.catalogue.transaction import (
    Transaction,
    get_meta,
    read_totals,
    set_meta,
)
from federation.storage.context import StorageContext
from federation.storage.pin_tables import (
    TRIED_MS,
    Followed,
    Keeping,
    KeptNow,
    KeptTotal,
    PinnableEntry,
    PinRow,
)

_AT_ONCE = 1000  # keepings, or kept rows, in one transaction

_T = TypeVar("_T")


class DirectoryPins:
    """See PinRecords."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<DirectoryPins of {self._core.directory.root}>"

    async def _write(self, work: Callable[[Transaction], _T]) -> _T:
        """Run a command's change, where the disk takes any."""
        self._core.directory.volume.check_writable()
        return await self._core.writer.submit(work)

    async def unknown_of(self, received: Sequence[Pin]) -> list[Pin]:
        """See PinRecords."""
        return await self._core.look_up(lambda at: pins.unknown_of(at, received))

    async def apply(self, received: Sequence[Pin]) -> int:
        """See PinRecords."""
        return await self._write(lambda tx: _apply(tx, received))

    async def page(self, after: int, limit: int) -> list[tuple[int, Pin]]:
        """See PinRecords."""
        return await self._core.look_up(lambda at: pins.page(at, after, limit))

    async def get(self, target: PinTarget) -> PinRow | None:
        """See PinRecords."""
        return await self._core.look_up(lambda at: pins.get(at, target))

    async def store(self, pin: Pin) -> None:
        """See PinRecords."""
        await self._write(lambda tx: pins.store(tx, _stamped(tx, pin)))

    async def remove(self, targets: Sequence[PinTarget], by: str) -> list[Pin]:
        """See PinRecords."""
        return await self._write(lambda tx: _remove(tx, targets, by))

    async def begin_trial(self, pin: Pin) -> int:
        """See PinRecords."""
        return await self._write(lambda tx: pins.begin_trial(tx, pin))

    async def go_on_trying(self, pin_id: int) -> None:
        """See PinRecords."""
        await self._core.writer.submit(lambda tx: pins.go_on_trying(tx, pin_id))

    async def end_trial(self, pin_id: int, pin: Pin) -> None:
        """See PinRecords."""
        await self._write(lambda tx: pins.end_trial(tx, pin_id, _stamped(tx, pin)))

    async def drop_trial(self, pin_id: int) -> None:
        """See PinRecords."""
        await self._core.writer.submit(lambda tx: pins.drop_trial(tx, pin_id))

    async def are_any(self) -> bool:
        """See PinRecords."""
        return await self._core.pool.query(pins.are_any)

    async def live(self) -> list[PinRow]:
        """See PinRecords."""
        return await self._core.look_up(lambda at: pins.live(at, self._core.clock.wall_s()))

    async def end_over(self) -> list[PinRow]:
        """See PinRecords. Writes nothing where there is none."""
        core = self._core
        wall_s, before_ms = core.clock.wall_s(), core.now_ms() - TRIED_MS
        if not await core.pool.query(pins.over, wall_s, before_ms):
            return []
        return await core.writer.submit(lambda tx: pins.end_over(tx, wall_s, before_ms))

    async def followed(self) -> Followed:
        """See PinRecords."""
        return await self._core.pool.query(_followed, self._core.clock.wall_s())

    async def set_followed(self, upto: int) -> None:
        """See PinRecords."""
        await self._core.writer.submit(partial(set_meta, name=pins.FOLLOWED, value=upto))

    async def set_scanned(self, rows: Sequence[PinRow], *, is_scanned: bool) -> None:
        """See PinRecords."""
        await self._core.writer.submit(lambda tx: pins.set_scanned(tx, rows, is_scanned=is_scanned))

    async def target_of(self, pin_id: int) -> PinTarget | None:
        """See PinRecords."""
        return await self._core.pool.query(pins.target_of, pin_id)


class DirectoryKeepings:
    """See Keepings."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._returned: frozenset[int] = frozenset()  # see begin_return

    def __repr__(self) -> str:
        return f"<DirectoryKeepings of {self._core.directory.root}>"

    def max_bytes(self) -> int:
        """See Keepings."""
        return share_of(self._core.settings.pins_max, self._core.space.quota_bytes)

    async def total_bytes(self) -> int:
        """See Keepings."""
        return await self._core.look_up(keepings.total_bytes)

    async def totals(self, pin_id: int | None = None) -> Mapping[int, KeptTotal]:
        """See Keepings."""
        return await self._core.look_up(lambda at: keepings.totals(at, pin_id))

    async def candidates(self, after: int | None, limit: int) -> list[PinnableEntry[int]]:
        """See Keepings: in the order of row ids."""
        return await self._core.pool.query(pins.candidates, after or 0, limit)

    async def changed(self, after: int, upto: int) -> list[PinnableEntry[int]]:
        """See Keepings."""
        return await self._core.pool.query(pins.changed, after, upto)

    async def entry(self, entry: int) -> Entry | None:
        """See Keepings."""
        return await self._core.pool.query(entries.by_id, entry)

    async def known(self, pin_id: int, entry: int) -> Keeping[int] | None:
        """See Keepings."""
        return await self._core.pool.query(keepings.known, pin_id, entry)

    async def begin(
        self, pin_id: int, entry: int | None, max_bytes: int
    ) -> tuple[Keeping[int] | None, bool]:
        """See Keepings."""
        return await self._core.writer.submit(partial(_begin, pin_id, entry, max_bytes))

    async def look(self, keys: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """See Keepings."""
        return await self._core.pool.query(keepings.look, keys)

    async def keep(self, keeping: Keeping[int], keys: Sequence[bytes], max_bytes: int) -> KeptNow:
        """See Keepings."""
        return await self._core.writer.submit(
            partial(keepings.keep, keeping_id=keeping.id, keys=keys, max_bytes=max_bytes)
        )

    async def settle(self, keeping: Keeping[int], missing: int, *, is_whole: bool) -> None:
        """See Keepings."""
        await self._core.writer.submit(
            lambda tx: keepings.settle(tx, keeping, missing, is_whole=is_whole)
        )

    async def leave_out(self, keeping: Keeping[int]) -> None:
        """See Keepings."""
        await self._core.writer.submit(lambda tx: keepings.leave_out(tx, keeping))

    async def due(self, limit: int) -> list[Keeping[int]]:
        """See Keepings."""
        return await self._core.pool.query(keepings.due, self._core.now_ms(), limit)

    async def put_off(self, waiting: Collection[Keeping[int]]) -> None:
        """See Keepings."""
        await self._core.writer.submit(partial(keepings.put_off, waiting=waiting))

    async def after(self, keeping_id: int, limit: int) -> list[Keeping[int]]:
        """See Keepings."""
        return await self._core.pool.query(keepings.after, keeping_id, limit)

    async def end_some(self) -> bool:
        """See Keepings. Writes nothing where there is none."""
        if await self._core.pool.query(keepings.of_removed_pin) is None:
            return False
        await self._core.writer.submit(partial(keepings.end_some, limit=_AT_ONCE))
        return True

    async def is_return_due(self) -> bool:
        """See Keepings."""
        return await self._core.pool.query(ended_keepings.is_return_due, self._core.now_ms())

    async def begin_return(self) -> int:
        """See Keepings."""
        self._returned = frozenset(await self._core.pool.query(ended_keepings.ended))
        return len(self._returned)

    async def give_back(self) -> None:
        """See Keepings."""
        writer, ids = self._core.writer, self._returned
        for table, first in ended_keepings.FIRST.items():
            place: ended_keepings.Place | None = first
            while place is not None:
                place = await writer.submit(
                    partial(
                        ended_keepings.give_back,
                        table=table,
                        ended_ids=ids,
                        after=place,
                        limit=_AT_ONCE,
                    )
                )
        ended = list(ids)
        for at in range(0, len(ended), _AT_ONCE):
            part = ended[at : at + _AT_ONCE]
            await writer.submit(partial(ended_keepings.forget, ended_ids=part))


def _begin(
    pin_id: int, entry_id: int | None, max_bytes: int, transaction: Transaction
) -> tuple[Keeping[int] | None, bool]:
    keeping = keepings.begin(transaction, pin_id, entry_id or 0)
    if keeping is None or entry_id is None:
        return keeping, True
    return keeping, keepings.keep_entry(transaction, keeping, max_bytes)


def _followed(connection: apsw.Connection, wall_s: float) -> Followed:
    with connection:
        head = read_totals(connection).seq
        at = min(head, int(get_meta(connection, pins.FOLLOWED) or 0))
        is_whole = at == head or change_log.reaches_back_to(connection, at + 1)
        live = [] if at == head else pins.live(connection, wall_s)
    return Followed(at, head, is_whole, live)


def _stamped(transaction: Transaction, wanted: Pin) -> Pin:
    old = pins.get(transaction.connection, wanted.target)
    stamp = transaction.next_stamp(0 if old is None else old.pin.stamp.ticks)
    return wanted._replace(stamp=stamp, at_s=transaction.wall_s)


def _remove(transaction: Transaction, targets: Sequence[PinTarget], by: str) -> list[Pin]:
    found = []
    for target in targets:
        old = pins.get(transaction.connection, target)
        if old is None or old.pin.is_removed:
            continue
        found.append(old.pin)
        pins.store(transaction, _stamped(transaction, old.pin._replace(by=by, is_removed=True)))
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
