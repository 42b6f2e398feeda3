"""What a page shows of the data directory, read in a thread and kept for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from federation.core.clock import Clock
from federation.core.errors import FederationError
from federation.core.replication_log import Parked
from federation.observability.statistics.files import folder_of, read_all
from federation.observability.statistics.history import History
from federation.storage.contract import Operations

_KEPT_S = 2.0  # however many look, the directory is read so often at most
_WAIT_S = 2.0
_PARKED_MAX = 20


class Stored(NamedTuple):
    """What was read. A part that could not be read is empty, and problems say why."""

    summary: Mapping[str, Any]
    parked: list[Parked]
    history: History
    problems: list[str]


class StoredReader(Protocol):
    """Reads what is stored."""

    async def get(self) -> Stored | None:
        """Return what is stored now; None while the disk does not answer."""
        ...


class StoredFacts:
    """Reads at most once at a time. Use it from one event loop."""

    def __init__(self, operations: Operations, data_dir: Path, clock: Clock) -> None:
        self._operations = operations
        self._data_dir = data_dir
        self._clock = clock
        self._read_s: float | None = None
        self._reading: asyncio.Future[Stored] | None = None
        self._last: Stored | None = None

    def __repr__(self) -> str:
        return f"<StoredFacts of {self._data_dir}>"

    async def get(self) -> Stored | None:
        """See StoredReader."""
        now_s = self._clock.monotonic_s()
        if self._last is not None and self._read_s is not None and now_s < self._read_s + _KEPT_S:
            return self._last
        if self._reading is None:
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._read))
        reading = self._reading
        await asyncio.wait({reading}, timeout=_WAIT_S)  # a thread that hangs is left alone
        if not reading.done():
            return None
        if self._reading is reading:  # also if it failed: the next look reads again
            self._reading = None
        self._read_s, self._last = now_s, reading.result()
        return self._last

    def _read(self) -> Stored:
        history, problems = read_all(folder_of(self._data_dir))
        try:
            summary = self._operations.summary()
            parked = list(self._operations.parked(None, _PARKED_MAX))
        except (FederationError, OSError) as error:
            # The page matters most when something is wrong, so it shows what can be read.
            return Stored({}, [], history, [*problems, str(error)])
        return Stored(summary, parked, history, problems)
