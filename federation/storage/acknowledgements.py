"""What peers have acknowledged: for uploads that are answered only once some peers hold them, too.

The process that replicates writes it to shared memory, where all others read it. What was
acknowledged before the processes started is in the peer records.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection

from federation.core.clock import Clock
from federation.core.replication_log import Lane, PeerRecord, PeerState
from federation.storage.log_end import Notifier
from federation.storage.shared_memory import Epoch

_UNKNOWN = 2**64 - 1  # in place of a row number: other processes drop what they know of the peer


class Acknowledgements:
    """How far each peer has acknowledged the change log. Used from the event loop."""

    def __init__(
        self, epoch: Epoch, read: Callable[[], Awaitable[list[PeerRecord]]], clock: Clock
    ) -> None:
        self._epoch = epoch
        self._read = read
        self._heard: dict[str, int] = {}  # rows, from peer records and from note()
        self._names: dict[str, int] = {}  # the number of each name in shared memory
        self._watch = Notifier(lambda: epoch.acknowledgements, clock)
        self._reading: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Acknowledgements {self._heard} {self._watch!r}>"

    def note(self, name: str, lane: Lane, seq: int) -> None:
        """See ReplicationLog. Ignores the window's lane: no upload waits for it."""
        if lane is Lane.ALWAYS and seq > self._heard.get(name, -1):
            self._heard[name] = seq
            self._epoch.set_acknowledged(self._number(name), seq)
            self._watch.notify_all()

    def note_unknown(self, name: str) -> None:
        """See ReplicationLog in federation.core."""
        self._heard.pop(name, None)
        self._epoch.set_acknowledged(self._number(name), _UNKNOWN)

    def forget(self, name: str) -> None:
        """Forget what this peer has acknowledged."""
        self._heard.pop(name, None)
        self._epoch.set_acknowledged(self._number(name), 0)

    async def wait(self, seq: int, peers: Collection[str], needed: int, timeout_s: float) -> bool:
        """Wait until `needed` of these peers have every row up to seq; False after timeout_s.

        Raises what reading the peer records raises.
        """
        if not self._have(seq, peers, needed):
            # Once for a process: what peers acknowledge later comes through shared memory.
            # Shielded, as others wait for the same task.
            await asyncio.shield(self._records())
        return await self._watch.until(lambda: self._have(seq, peers, needed), timeout_s)

    async def close(self) -> None:
        """Stop polling; tasks that still wait are not woken."""
        await self._watch.close()

    def _have(self, seq: int, peers: Collection[str], needed: int) -> bool:
        return sum(self._known(name) >= seq for name in peers) >= needed

    def _known(self, name: str) -> int:
        """Return the row up to which a peer has everything; -1: unknown, a reconcile runs."""
        told = self._epoch.acknowledged(self._number(name))
        return -1 if told == _UNKNOWN else max(self._heard.get(name, 0), told)

    def _number(self, name: str) -> int:
        """Return the number that stands for the name in shared memory; never 0."""
        if name not in self._names:
            hashed = hashlib.sha256(name.encode()).digest()
            self._names[name] = int.from_bytes(hashed[:8]) | 1
        return self._names[name]

    def _records(self) -> asyncio.Task[None]:
        """Return the one task that reads the peer records; start a new one if it failed."""
        if self._reading is None or (self._reading.done() and self._reading.exception()):
            self._reading = asyncio.ensure_future(self._read_records())
        return self._reading

    async def _read_records(self) -> None:
        for record in await self._read():
            if record.state is PeerState.FOLLOWING and record.lane is Lane.ALWAYS:
                known = self._heard.get(record.name, 0)
                self._heard[record.name] = max(known, record.cursor)
