"""The offline switch: shared by all processes on a data directory, and kept over restarts.

It is a value in the catalogue that every process polls, so that `federation offline on` needs no
connection to any of them, and applies to processes that start later.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from federation.core.tasks import Background
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.catalogue.transaction import get_meta, set_meta
from federation.storage.context import StorageContext

OFFLINE_SINCE = "offline_since_s"
POLL_S = 0.5

_log = structlog.get_logger(__name__)


class OfflineSwitch:
    """The state of the switch as last read. Call refresh() once, then start()."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._background = Background()
        self._watchers: list[Callable[[bool], None]] = []
        self._readable = True
        self.is_on = False

    def __repr__(self) -> str:
        return f"<OfflineSwitch {'on' if self.is_on else 'off'}>"

    def watch(self, watcher: Callable[[bool], None]) -> None:
        """Call watcher on the event loop with the state, now and after each change."""
        self._watchers.append(watcher)
        watcher(self.is_on)

    async def refresh(self) -> None:
        """Read the switch. Never raises: if it cannot be read, the state stays as it was."""
        try:
            since_s = await self._core.pool.run(self._read)
        except UNREADABLE as error:
            # One line for each time that it cannot be read, not two a second.
            if self._readable:
                _log.warning("offline_switch_not_read", reason=str(error))
            self._readable = False
            return
        self._readable = True
        if (since_s is not None) == self.is_on:
            return
        self.is_on = since_s is not None
        _log.info("offline_switched", offline=self.is_on)
        for watcher in self._watchers:
            watcher(self.is_on)

    async def turn(self, *, on: bool) -> None:
        """Turn the switch durably for all processes. Raises StorageFull, StorageFailed, TooBusy."""
        # The date, for people; that there is one is the switch.
        since_s = int(self._core.clock.wall_s()) if on else None
        await self._core.writer.submit(lambda tx: set_meta(tx, OFFLINE_SINCE, since_s))
        await self.refresh()

    def start(self) -> None:
        """Start polling for changes; close() ends it."""
        self._background.keep(
            self._poll, "offline-switch", self._core.clock, self._core.metrics.failing
        )

    async def close(self) -> None:
        """Stop polling."""
        await self._background.close()

    async def _poll(self) -> None:
        while True:
            await self._core.clock.sleep(POLL_S)
            await self.refresh()

    def _read(self) -> int | None:
        value: int | None = get_meta(self._core.pool.connection(), OFFLINE_SINCE)
        return value
