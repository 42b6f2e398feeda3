"""Removes the index entries of some instances after a time without use (storage.expire-after).

Used by the holder of the maintenance lock. A round looks at all entries of these instances, in
slices. What an entry named stays until it is evicted. Peers are told nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import apsw
import structlog

from federation.core.errors import FederationError
from federation.core.index import EntryKind
from federation.observability.rate_limits import Complaints
from federation.storage.catalogue import entry_removal
from federation.storage.catalogue.transaction import HOLD, get_meta
from federation.storage.context import StorageContext
from federation.storage.entry_age import max_unused_ms

_LOOK_EVERY_S = 60.0
_ROUND_EVERY_S = 3600.0
_LOOKED_AT = 1000  # entries at once
_DELETED_AT_ONCE = 100  # in one transaction, so that uploads do not wait long for the write lock

_log = structlog.get_logger(__name__)


class ExpiryRounds:
    """When to look for what has expired: once an hour, and when the configuration has changed."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._ages_s: Mapping[str, float] = {}

    def begin(self, ages_s: Mapping[str, float], now_s: float) -> bool:
        """Return whether a round is due, which begins then; now_s: monotonic."""
        if ages_s == self._ages_s and now_s < self._next_s:
            return False
        self._ages_s, self._next_s = ages_s, now_s + _ROUND_EVERY_S
        return True


class Expiry:
    """See the module."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._complaints = Complaints(_log, core.clock)
        self._rounds = ExpiryRounds()

    def __repr__(self) -> str:
        return f"<Expiry of {len(self._core.settings.expire_after)} instances>"

    async def run(self) -> None:
        """Work until cancelled: once an hour, and soon after the configuration has changed."""
        clock = self._core.clock
        while True:
            if self._rounds.begin(self._core.settings.expire_after, clock.monotonic_s()):
                try:
                    await self.round()
                except (FederationError, OSError, apsw.Error) as error:  # it may come back
                    self._complaints.warn("expiry_waits", error)
            await clock.sleep(_LOOK_EVERY_S)

    async def round(self) -> int:
        """Remove what has expired; return how many entries. Raises as Writer.submit does.

        None are while eviction pauses because a process was killed, whose uses are not known.
        """
        if int(await self._core.pool.query(get_meta, HOLD) or 0) > self._core.now_ms():
            return 0
        removed = {
            instance: count
            for instance, age_s in self._core.settings.expire_after.items()
            if (count := await self._expire(instance, age_s))
        }
        if removed:
            _log.info("entries_expired", count=sum(removed.values()), instances=removed)
        return sum(removed.values())

    async def _expire(self, instance: str, age_s: float) -> int:
        core = self._core
        before_ms = core.now_ms() - max_unused_ms(age_s, core.timing.cutoff_age_ms)
        removed = 0
        for kind in EntryKind:
            after = b""
            while page := await core.pool.query(
                entry_removal.uses, kind, instance, after, _LOOKED_AT
            ):
                after = page[-1].name
                old = [each.id for each in page if each.used_ms < before_ms]
                for at in range(0, len(old), _DELETED_AT_ONCE):
                    part = old[at : at + _DELETED_AT_ONCE]
                    # The age is compared again in the transaction: it may have been used since it
                    # was listed.
                    count, _ = await core.writer.submit(
                        partial(entry_removal.delete, ids=part, before_ms=before_ms)
                    )
                    removed += count
        core.metrics.keeping.expired.inc(removed)
        return removed
