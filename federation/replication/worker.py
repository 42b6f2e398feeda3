"""Replication to all peers, in the one process of a data directory that leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from federation.config.peers import PeerConfig
from federation.core.clock import Clock
from federation.core.errors import FederationError, SourceUnavailable, TooBusy
from federation.core.replication_log import ReplicationLog
from federation.core.tasks import Background, FailingWork
from federation.replication.peer import PeerRunner
from federation.replication.peer_records import PeerRecordCache
from federation.replication.session import PeerSession
from federation.replication.status import LaneLag, facts_of, facts_of_record

_log = structlog.get_logger(__name__)

_LEAD_EVERY_S = 1.0
_LOOK_EVERY_S = 1.0


class _Running:
    """A peer that is being sent to."""

    def __init__(self, session: PeerSession, background: Background) -> None:
        self.peer = session.peer
        self.session = session
        self.runner = PeerRunner(session)
        self.lags = {lane: LaneLag(session, lane) for lane in session.lanes}
        self.task = background.start(self.runner.run(), f"peer {session.name}")

    async def stop(self) -> None:
        """Stop sending to it; its record stays."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.session.api.close()


class Replicator:
    """Starts and stops the senders of peers while this process leads."""

    def __init__(
        self,
        change_log: ReplicationLog,
        make_session: Callable[[PeerConfig, PeerRecordCache], PeerSession],
        clock: Clock,
        failing: FailingWork | None = None,
    ) -> None:
        """make_session: makes the connection to a peer."""
        self._change_log = change_log
        self._make_session = make_session
        self._clock = clock
        self._records = PeerRecordCache(change_log, clock)
        self._peers: list[PeerConfig] = []
        self._running: dict[str, _Running] = {}
        self._parked: dict[str, int] = {}
        self._failing = failing or FailingWork()
        self._background = Background()
        self._changing = asyncio.Lock()
        self._saving: asyncio.Task[Any] | None = None
        self.leads = False

    def __repr__(self) -> str:
        return f"<Replicator {'leads' if self.leads else 'waits'}, {len(self._running)} peers>"

    def start(self, peers: Sequence[PeerConfig]) -> None:
        """Begin as soon as no other process of the data directory leads."""
        self._peers = list(peers)
        self._background.keep(self._run, "replication", self._clock, self._failing)

    async def reload(self, peers: Sequence[PeerConfig]) -> None:
        """Send to these peers from now on, without disturbing those that are unchanged.

        Objects that a removed peer lacks stay pinned until it is dropped.
        """
        self._peers = list(peers)
        if self.leads:
            await self._apply()

    def heard_from(self, node_id: str) -> None:
        """Take a call from a peer as a sign that it can be reached again."""
        for running in self._running.values():
            if running.session.node_id == node_id:
                running.session.gate.heard_from()

    async def close(self) -> None:
        """Stop sending, and save how far each peer has come."""
        # First the senders, or they would call through a closed connection.
        await self._background.close()
        async with self._changing:
            for running in self._running.values():
                await running.session.api.close()
            self._running.clear()
        if self.leads:
            await self._save()

    async def _save(self) -> None:
        try:
            await self._records.save()
        except FederationError as error:
            _log.warning("peer_records_not_saved", reason=str(error))

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows."""
        names = {peer.name for peer in self._peers}
        shown = [
            facts_of(each.runner, each.lags, self._parked.get(name, 0))
            for name, each in sorted(self._running.items())
        ]
        left = [
            facts_of_record(record, self._parked.get(record.name, 0))
            for record in self._records.records()
            if record.name not in names
        ]
        return {"replicates-here": self.leads, "peers": shown, "left-peers": left}

    async def _run(self) -> None:
        while True:
            if not self.leads:
                await self._begin_to_lead()
            await self._apply()
            await self._poll()
            await self._stop_leading()

    async def _begin_to_lead(self) -> None:
        while not self._try_to_lead():
            await self._clock.sleep(_LEAD_EVERY_S)
        await self._load()
        # Only after the records are read: what peers were told before decides what is sent.
        self.leads = True
        _log.info("replication_starts", peers=[peer.name for peer in self._peers])
        self._saving = self._background.keep(
            self._records.run, "peer records", self._clock, self._failing
        )

    async def _stop_leading(self) -> None:
        """Stop sending: another process does it, and what it has saved must stay."""
        self.leads = False
        _log.warning("replication_lead_lost", peers=[peer.name for peer in self._peers])
        async with self._changing:
            for running in self._running.values():
                await running.stop()
            self._running.clear()
            if self._saving is not None:
                self._saving.cancel()
                await asyncio.gather(self._saving, return_exceptions=True)

    def _try_to_lead(self) -> bool:
        try:
            return self._change_log.try_to_lead()
        except (SourceUnavailable, TooBusy) as error:
            _log.warning("replication_waits", reason=str(error))
            return False

    async def _load(self) -> None:
        while True:
            try:
                return await self._records.load()
            except SourceUnavailable as error:
                _log.warning("replication_waits", reason=str(error))
                await self._clock.sleep(_LEAD_EVERY_S)

    async def _apply(self) -> None:
        """Start and stop peers to match the configuration."""
        async with self._changing:
            wanted = {peer.name: peer for peer in self._peers}
            self._records.in_use = frozenset(wanted)
            # A changed peer is met anew as a whole: any of its keys may concern any part of a
            # session.
            changed = [n for n, each in self._running.items() if wanted.get(n) != each.peer]
            for name in changed:
                await self._running[name].stop()
                del self._running[name]
            if changed:  # a removed peer may be dropped by a command, which reads what is saved
                await self._save()
            for name, peer in wanted.items():
                if name not in self._running:
                    session = self._make_session(peer, self._records)
                    for lane in session.lanes:  # pins what is accepted from now on
                        self._records.open(name, lane)
                    self._running[name] = _Running(session, self._background)
            await self._save()

    async def _poll(self) -> None:
        """Refresh what describe() shows of the change log, while this process leads."""
        # Asked once a second, as a process with nothing to save would never be refused (decisions:
        # A lead can be lost).
        while self._change_log.holds_lead():
            try:
                self._parked = await self._change_log.parked_counts()
                for running in list(self._running.values()):
                    for lag in running.lags.values():
                        await lag.poll()
            except SourceUnavailable as error:
                _log.warning("replication_lag_unknown", reason=str(error))
            await self._clock.sleep(_LOOK_EVERY_S)
