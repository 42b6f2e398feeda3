"""Keeping one peer up to date while it is configured.

Met first, so that it is known who it is; then the log is followed, all is offered where the log
does not do, what is parked is tried again, and all the while it is watched whether the same data
directory still answers.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from federation.core.digest import digest_of
from federation.core.errors import SourceUnavailable, StorageFailed, StorageFull
from federation.core.replication_log import Lane, PeerState
from federation.core.tasks import Restarts, first_of
from federation.core.window import Window
from federation.replication.follower import Follower, LogTrimmed
from federation.replication.reconcile import Reconcile, pages_of_check, pause_of_check
from federation.replication.retry import Retry
from federation.replication.schedule import (
    FIRST_CHECK_SHARE,
    Position,
    Purpose,
    due,
    is_urgent,
    what_changed,
)
from federation.replication.session import PeerSession

_log = structlog.get_logger(__name__)

_WATCH_EVERY_S = 0.5
_MEET_EVERY_TURNS = 20  # of watching
_WINDOW_LOOK_S = 5.0
_ITSELF_S = 60.0
FULL_S = 300.0  # without room for any write, until a walk ends
TOO_SMALL = "as complete as fits: "  # begins the reason of a peer that follows but is too small
_PROBE = digest_of(b"federation")  # any question shows that the peer answers

_LOCAL_TROUBLE = (SourceUnavailable, StorageFailed, StorageFull)


class Resync(Exception):
    """These lanes need more than the change log; the message says why."""

    def __init__(self, reason: str, *lanes: Lane) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lanes = lanes


class IsItself(Exception):
    """The address of the peer leads back to this node."""


class PeerRunner:
    """Sends to one peer until run() is cancelled."""

    def __init__(self, session: PeerSession) -> None:
        self.session = session
        self.followers: dict[Lane, Follower] = {}
        self.reconciles: dict[Lane, Reconcile] = {}
        self.state = "starting"
        self._window = Window.parse(session.peer.window)
        self._counted = (0, 0)
        self._checked_s: dict[Lane, float] = {}

    def __repr__(self) -> str:
        return f"<PeerRunner {self.session.name} {self.state}>"

    async def run(self) -> None:
        """Send, and start again after every failure."""
        restarts = Restarts()
        while True:
            begun_s = self.session.clock.monotonic_s()
            try:
                await self._serve()
            except (Resync, LogTrimmed) as error:
                self._begin_resync(error)
                restarts = Restarts()
                continue
            except IsItself:
                self.state = "itself"
                _log.error(
                    "peer_is_this_node",
                    peer=self.session.name,
                    url=self.session.peer.url,
                    text="the node that answers has this node's id "
                    f"({self.session.change_log.node_id}): the url leads back here, or its data "
                    "directory is a copy of this one: stop it and run `federation new-id` there",
                )
                delay_s = _ITSELF_S
            except _LOCAL_TROUBLE as error:
                self.state = "local trouble"
                _log.warning("replication_waits", peer=self.session.name, reason=str(error))
                delay_s = restarts.failed(self.session.clock.monotonic_s() - begun_s)
            except Exception:  # noqa: BLE001 - the outermost loop; a peer is not given up
                self.state = "failed"
                _log.exception("replication_failed", peer=self.session.name)
                delay_s = restarts.failed(self.session.clock.monotonic_s() - begun_s)
            finally:
                self.followers, self.reconciles = {}, {}
            await self.session.clock.sleep(delay_s)

    async def _serve(self) -> None:
        session = self.session
        for lane in session.lanes:
            record = session.record(lane)
            session.change(lane, pins_pulled=session.rules.sends_pulled)
            # Its cursor says nothing of older rows, so nobody may rely on it meanwhile.
            if lane is Lane.ALWAYS and record.state is PeerState.NEEDS_RESYNC:
                session.change_log.note_unacknowledged(session.name)
            # An older catalogue was put back below a record that was saved later.
            if record.cursor > session.change_log.head():
                raise Resync("its cursor is beyond the end of the change log", lane)
        self._let_go_of_window()
        self.state = "meeting"
        # Nothing is sent before the node id is known: what came from the peer must not go back.
        await session.shipper.sender.answered_call.answer(session.api.greet)
        # FindMissing, too: a server that answers for its capabilities alone is no peer.
        await session.shipper.sender.ask([_PROBE])
        self._check_identity()
        self.state = "up"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch())
                group.create_task(session.shipper.purges.run())
                if session.pins is not None:
                    group.create_task(session.pins.run())
                group.create_task(Retry(session).run())
                for lane in session.lanes:
                    follower = Follower(session, lane)
                    self.followers[lane] = follower
                    group.create_task(self._follow(lane, follower))
                    group.create_task(self._reconcile(lane))
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None

    def _begin_resync(self, error: Resync | LogTrimmed) -> None:
        session = self.session
        reason = "the change log no longer reaches back far enough"
        lanes = tuple(session.lanes)
        if isinstance(error, Resync):
            reason, lanes = error.reason, error.lanes or lanes
        identity = session.api.identity
        for lane in lanes:
            _log.warning("peer_needs_resync", peer=session.name, lane=str(lane), reason=reason)
            session.change(
                lane,
                state=PeerState.NEEDS_RESYNC,
                reason=reason,
                position="",
                # The walk brings what is here by now; the log is followed from here on.
                cursor=session.change_log.head(),
                purges=0,
            )
            if lane is Lane.ALWAYS:
                session.change_log.note_unacknowledged(session.name)
            # The node that answers now is the new one, or the same difference would be found again.
            if identity.node_id:
                session.change(lane, node_id=identity.node_id, log_seen=str(identity.log or ""))
        session.shipper.confirmed.clear()

    def _let_go_of_window(self) -> None:
        """Stop holding objects for a window lane that no rule uses any more."""
        session = self.session
        record = session.records.get(session.name, Lane.WINDOW)
        if Lane.WINDOW in session.lanes or record is None:
            return
        session.change(
            Lane.WINDOW,
            state=PeerState.NEEDS_RESYNC,
            reason="no rule sends anything in a window",
            position="",
            holds=False,
        )

    def _check_identity(self) -> None:
        """Compare the node that answers with the record. Raises Resync, IsItself."""
        session = self.session
        identity = session.api.identity
        # No node of this project, or none that takes this one for a peer: nothing to compare.
        if not identity.node_id:
            return
        if identity.node_id == session.change_log.node_id:
            raise IsItself
        for lane in session.lanes:
            record = session.record(lane)
            if (reason := what_changed(record, identity.node_id, identity.log)) is not None:
                raise Resync(reason)
            session.change(lane, node_id=identity.node_id, log_seen=str(identity.log or ""))

    async def _watch(self) -> None:
        session, turn = self.session, 0
        while True:
            await session.clock.sleep(_WATCH_EVERY_S)
            turn += 1
            self._note_in_record()
            for lane in session.lanes:
                if session.records.take_mark(session.name, lane):
                    raise Resync(session.record(lane).reason, lane)
            if session.shipper.purges.take_told_late():
                raise Resync("it was told late what was pushed again after a purge")
            if turn % _MEET_EVERY_TURNS == 0 and session.gate.is_open:
                await session.api.meet()
            self._check_identity()

    def _note_in_record(self) -> None:
        """Store what `status` shows, so that it survives a restart."""
        session, record = self.session, self.session.record(Lane.ALWAYS)
        objects, size_bytes = session.counters.sent_objects, session.counters.sent_bytes
        before, self._counted = self._counted, (objects, size_bytes)
        session.change(
            Lane.ALWAYS,
            # Differences: the record counts over all processes, the counters begin at 0 in each.
            sent_objects=record.sent_objects + objects - before[0],
            sent_bytes=record.sent_bytes + size_bytes - before[1],
        )
        if objects > before[0]:
            session.change(Lane.ALWAYS, last_success_s=session.clock.wall_s())
        if session.gate.last_error is not None:
            session.change(
                Lane.ALWAYS,
                last_error=session.gate.last_error.reason,
                last_error_s=session.gate.last_error_s,
            )

    async def _follow(self, lane: Lane, follower: Follower) -> None:
        if lane is Lane.ALWAYS:
            await follower.run()
        clock = self.session.clock
        while True:
            await self._while_open(follower.run)
            # From the saved cursor: the tasks of the last one were cancelled in the middle.
            self.followers[lane] = follower = Follower(self.session, lane)
            await follower.skip_ahead()
            await clock.sleep(min(_WINDOW_LOOK_S, self._opens_in_s() or _WATCH_EVERY_S))

    async def _while_open(self, work: Any) -> None:
        """Run work while the window is open; return when it closes."""
        if self._opens_in_s():
            return
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work())
            while not self._opens_in_s() and not task.done():
                await self.session.clock.sleep(_WATCH_EVERY_S)
            task.cancel()

    def _opens_in_s(self) -> float:
        return self._window.opens_in_s(self.session.clock.wall_s())

    async def _reconcile(self, lane: Lane) -> None:
        """Offer everything held whenever a walk is due."""
        clock = self.session.clock
        # Kept over restarts of this loop, or a peer that fails every hour would never be checked.
        self._checked_s.setdefault(lane, clock.monotonic_s())
        while True:
            position = self._due(lane)
            if position is None or self._is_shut(lane):
                await clock.sleep(_WATCH_EVERY_S)
                continue
            walk = Reconcile(
                self.session,
                lane,
                lambda: self.followers[lane].is_idle,
                lambda at: self._keep(lane, at),
            )
            self.reconciles[lane] = walk
            await self._walk(lane, walk, position)
            self.reconciles.pop(lane, None)

    def _due(self, lane: Lane) -> Position | None:
        rested_s = self.session.clock.monotonic_s() - self._checked_s[lane]
        return due(self.session.record(lane), self.session.peer.check_every, rested_s)

    async def _walk(self, lane: Lane, walk: Reconcile, position: Position) -> None:
        """Walk to the end, unless the window closes or a check has to stop for something urgent."""
        session, wanted = self.session, self.session.record(lane).wanted
        is_check = position.purpose is Purpose.CHECK
        if not is_check:
            _log.info("reconcile_goes", peer=session.name, lane=str(lane), position=str(position))
            if position == Position(position.purpose):  # from the beginning
                session.change(Lane.ALWAYS, purges=0)
                session.shipper.purges.try_again()
        pause_s, began_s = 0.0, session.clock.monotonic_s()
        if is_check:
            pause_s = pause_of_check(
                session.peer.check_every, pages_of_check(*await session.change_log.held())
            )
        is_full = False
        async with asyncio.TaskGroup() as group:
            task = group.create_task(walk.run(position, pause_s))
            while not task.done():
                await asyncio.wait({task}, timeout=_WATCH_EVERY_S)
                # A check that finds no room waits: live traffic may be what fills the peer.
                is_full = not (is_check or task.done()) and session.gate.full_for_s >= FULL_S
                makes_way = is_check and is_urgent(session.record(lane))
                if is_full or makes_way or self._is_shut(lane):
                    task.cancel()
                    await asyncio.wait({task})
        if task.cancelled() and not is_full:
            return
        reason = ""
        if is_full or walk.fit.evicts:
            reason = TOO_SMALL + ("it has no room" if is_full else "it evicts what it is sent")
            if reason != session.record(lane).reason:
                _log.warning("peer_too_small", peer=session.name, lane=str(lane), reason=reason)
        if is_check:
            # The next check is due one interval after this one began.
            rests_from_s = began_s + session.peer.check_every * (1 - FIRST_CHECK_SHARE)
            self._checked_s[lane] = max(rests_from_s, session.clock.monotonic_s())
            session.change(lane, position="", reason=reason)
            return
        self._note_in_record()  # a command that waits for the end shows these numbers
        _log.info("reconcile_ends", peer=session.name, lane=str(lane), offered=walk.offered)
        session.change(lane, position="", state=PeerState.FOLLOWING, reason=reason, holds=True)
        session.change_log.note_acknowledged(session.name, lane, session.record(lane).cursor)
        if position.purpose is Purpose.REQUEST:
            # What was asked for when the walk began: a request since then gets a walk of its own.
            session.change(lane, served=wanted)
        await session.records.save()

    def _is_shut(self, lane: Lane) -> bool:
        return lane is Lane.WINDOW and bool(self._opens_in_s())

    def _keep(self, lane: Lane, position: Position) -> None:
        self.session.change(lane, position=str(position))
