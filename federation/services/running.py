"""The calls that run on one listener: how many each caller has, and what each waits for.

A call counts from its headers until its task ends, when its answer is sent. Whatever the other side
makes it wait for has a time limit: its first message, and the answer being taken. A call whose
answer is not taken is ended with its connection: only that frees what is held for it.
"""

from __future__ import annotations

import asyncio
from functools import partial

from federation.config.model import LimitsConfig
from federation.core.admission import Admission
from federation.core.clock import Clock
from federation.core.errors import LimitReached
from federation.core.fair_share import FairShare, ShareVerdict
from federation.core.tasks import Background
from federation.services.arrivals import MessageArrivals
from federation.services.bounds import SharedBounds
from federation.services.running_call import NEVER_S, CallPhase, RunningCall
from federation.services.status_codes import CallStatus, StatusCode
from federation.services.transport import Connections, Transport

_EVERY_S = 0.5
_SOON_S = 0.05
_WHOLE_S = 2.0  # a message whose size is known has its room for so long, however slowly it comes
_STALL_BYTES = 2**22  # per so many bytes of an answer the time limit grows by limits.stall
_STRANGERS_PART = 10  # strangers together get this fraction of all calls

_ending = Background()


class RunningCalls:
    """Those of one listener."""

    def __init__(
        self,
        limits: LimitsConfig,
        clock: Clock,
        bounds: SharedBounds,
        connections: Connections,
    ) -> None:
        """limits: they may change. bounds: shared by all listeners."""
        self.incoming = bounds.incoming
        self.outgoing = bounds.outgoing
        self._limits = limits
        self._clock = clock
        self._hits = bounds.hits
        self._connections = connections
        self._known = FairShare(lambda: limits.streams, lambda: limits.streams_per_caller)
        self._strangers = FairShare(lambda: max(1, limits.streams // _STRANGERS_PART))
        self._calls: set[RunningCall] = set()
        self._arrivals = MessageArrivals(bounds.incoming)
        self._timer: asyncio.TimerHandle | None = None
        self._counting: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for it is a system call

    def __repr__(self) -> str:
        return f"<RunningCalls {len(self._calls)} running>"

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._calls)

    def begin(self, call: RunningCall, *, stranger: bool = False) -> None:
        """Count a call, which the running task serves, until that task ends.

        stranger: it is open to everybody, so it takes nothing from those who have rights.

        Raises LimitReached.
        """
        share = self._strangers if stranger else self._known
        if share.try_acquire(call.caller) is not ShareVerdict.GRANTED:
            self._refuse(share, call)
        call.counted_in = share
        self._watch(call)

    def may_begin(self, caller: str, *, stranger: bool = False) -> bool:
        """Whether begin() would count another call of this caller."""
        share = self._strangers if stranger else self._known
        return share.judge(caller) is ShareVerdict.GRANTED

    def refused(self, transport: Transport) -> RunningCall:
        """Watch a call that counts nowhere, until its status is taken."""
        call = RunningCall(transport, "")
        self._watch(call)
        return call

    def _watch(self, call: RunningCall) -> None:
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        task = call.task = asyncio.current_task(loop)
        assert task is not None
        self._calls.add(call)
        task.add_done_callback(partial(self._end, call))
        if self._timer is None:
            self._timer = loop.call_later(_EVERY_S, self._look)

    def was_late(self, call: RunningCall) -> bool:
        """Whether only its time limit cancelled the call, which is then not cancelled any more."""
        task = call.task
        return call.is_late and task is not None and task.uncancel() == 0

    def _refuse(self, share: FairShare, call: RunningCall) -> None:
        caller = call.caller
        if share.judge(caller) is ShareVerdict.FULL:
            limit, text = "streams", f"{share.total} calls are running, as many as are allowed"
        else:
            limit = "streams-per-caller"
            text = f"{caller} has {share.used_by(caller)} calls running; others need the rest"
        self._hits.hit(limit, caller, call.peer, running=share.used_by(caller), of=share.total)
        raise LimitReached(f"limits.{limit}", f"{text} (limits.{limit}); try again")

    def _end(self, call: RunningCall, _task: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        call.task = None  # a task that was cancelled keeps its frames, and they keep the call
        if call.counted_in is not None:
            call.counted_in.release(call.caller)
        self.release_request(call)
        if call.answer_bytes:
            self.outgoing.release(call.caller, call.answer_bytes)
            call.answer_bytes = 0

    async def read(self, call: RunningCall, most_bytes: int, *, first: bool) -> bytes | None:
        """Read a message, once there is room for it; None after the last.

        most_bytes: the room that one needs whose size is not known yet. Its bytes count as the
        call's until they are gone. Raises as Transport.read does.
        """
        size_bytes = call.transport.next_size()
        if size_bytes is not None:
            most_bytes = size_bytes
        if not self.incoming.try_acquire(call.caller, most_bytes):
            await self._room_in(call, most_bytes)
        call.pending_bytes = most_bytes
        call.size_bytes = size_bytes or 0
        call.since_s = self._clock.monotonic_s()
        if first:
            call.phase = CallPhase.ARRIVING
        came_bytes = 0
        try:
            message = await call.transport.read()
            if message is not None:
                came_bytes = len(message)
        finally:
            call.phase = CallPhase.RUNNING
            self.incoming.adjust(call.caller, came_bytes - call.pending_bytes)
            call.pending_bytes = 0
            call.request_bytes += came_bytes
            self._arrivals.note_message(call.peer, came_bytes)
            if call.is_draining:  # the read of an upload ends by itself
                self.release_request(call)
        return message

    def may_read(self, call: RunningCall, most_bytes: int) -> bool:
        """Whether read() would return without waiting; most_bytes: as for read()."""
        if not call.transport.is_ready():
            return False
        return self.incoming.may_acquire(call.caller, call.transport.next_size() or most_bytes)

    async def hold(self, call: RunningCall, size_bytes: int) -> None:
        """Wait until the call may hold so much more than what came."""
        if not self.incoming.try_acquire(call.caller, size_bytes):
            await self._room_in(call, size_bytes)
        call.request_bytes += size_bytes

    def release(self, call: RunningCall, size_bytes: int) -> None:
        """Release so many bytes of the call's request."""
        size_bytes = min(size_bytes, call.request_bytes)
        call.request_bytes -= size_bytes
        self.incoming.release(call.caller, size_bytes)

    def release_request(self, call: RunningCall) -> None:
        """Release all of the call's request; nothing more of it is wanted."""
        held_bytes = call.request_bytes + call.pending_bytes
        call.request_bytes = call.pending_bytes = 0
        call.is_draining = True
        if held_bytes:
            self.incoming.release(call.caller, held_bytes)

    async def make_room(self, call: RunningCall, size_bytes: int) -> None:
        """Have room for an answer, or a message of one, of so many bytes in all.

        A call that waits holds none: calls that each hold some and want more would wait for each
        other. Raises LimitReached.
        """
        more_bytes = size_bytes - call.answer_bytes
        if more_bytes > 0 and not self.try_reserve_answer(call, more_bytes):
            self.shrink_answer(call, call.answer_bytes)
            await self._wait_for_answer_room(call, size_bytes)

    def try_reserve_answer(self, call: RunningCall, size_bytes: int) -> bool:
        """Acquire room for an answer, or a message of one, until it is sent; False: none."""
        if not self.outgoing.try_acquire(call.caller, size_bytes):
            return False
        call.answer_bytes += size_bytes
        return True

    async def _wait_for_answer_room(self, call: RunningCall, size_bytes: int) -> None:
        self._waits(self.outgoing, call)
        stall_s = self._limits.stall
        try:
            async with asyncio.timeout(stall_s):
                await self.outgoing.acquire(call.caller, size_bytes)
        except TimeoutError:
            raise LimitReached(
                "limits.buffer-memory",
                f"there was no room for an answer of {size_bytes} bytes to {call.caller} within "
                f"{stall_s:g} s (limits.buffer-memory)",
            ) from None
        call.answer_bytes += size_bytes

    def shrink_answer(self, call: RunningCall, by_bytes: int) -> None:
        """Release room that an answer does not need."""
        call.answer_bytes -= by_bytes
        self.outgoing.release(call.caller, by_bytes)

    def note_sent(self, call: RunningCall) -> None:
        """The transport has sent the message: release its room."""
        call.phase = CallPhase.RUNNING
        if call.answer_bytes:
            self.outgoing.release(call.caller, call.answer_bytes)
            call.answer_bytes = 0

    async def _room_in(self, call: RunningCall, size_bytes: int) -> None:
        """Wait as long as the client does: whatever holds the room now has time limits of its own.

        Refusing would be worse, since some clients take that for "not needed".
        """
        self._waits(self.incoming, call)
        call.waits_for_room = True
        self._look_soon()
        try:
            await self.incoming.acquire(call.caller, size_bytes)
        finally:
            call.waits_for_room = False

    def _waits(self, admission: Admission, call: RunningCall) -> None:
        self._hits.hit("buffer-memory", call.caller, call.peer, held_bytes=admission.used_bytes)

    def note_sending(self, call: RunningCall) -> None:
        """An answer, a message of one or a status is handed to the transport."""
        call.phase = CallPhase.LEAVING
        call.since_s = self._clock.monotonic_s()

    def _look(self) -> None:
        """End calls that have waited for too long; every half a second while there are calls."""
        self._timer = None
        now_s = self._clock.monotonic_s()
        for call in list(self._calls):
            if call.ended:
                continue
            if now_s > call.late_at_s and call.task is not None:
                # Once: a handler that needs time to clean up is not cancelled again.
                call.late_at_s = NEVER_S
                call.is_late = True
                call.task.cancel()
                continue
            waited_s = now_s - call.since_s
            if call.phase is CallPhase.ARRIVING and waited_s > self._limits.first_message:
                self._hits.hit("first-message", call.caller, call.peer)
                self._abort(call)
            elif call.phase is CallPhase.LEAVING and waited_s > self._leaving_s(call):
                self._break_off(call)
        self._look_soon()
        if self._calls:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._look)

    def _look_soon(self) -> None:
        """Begin to look how much has arrived of messages that occupy room others wait for."""
        needed = self.incoming.waiting or self._arrivals.undercharges
        if needed and (self._counting is None or self._counting.done()):
            loop = asyncio.get_running_loop()
            self._counting = loop.create_task(self._count(), name="arrivals")

    async def _count(self) -> None:
        await self._count_once()
        while self.incoming.waiting:
            await self._count_once()

    async def _count_once(self) -> None:
        await asyncio.sleep(_SOON_S)  # most messages are complete by then
        pending = [call for call in self._calls if call.pending_bytes and not call.size_bytes]
        peers = {call.peer for call in pending}
        received = await asyncio.to_thread(self._connections.received_from, peers)
        # Looked up anew: while the thread looked, messages have come and calls have ended.
        pending, slow = self._pending(self._clock.monotonic_s() - _WHOLE_S)
        greedy = self._arrivals.charge(pending, received, self._limits.message)
        greedy = self._arrivals.charge_known(slow, self._limits.message) or greedy
        if greedy is not None:
            self._hits.hit(
                "buffer-memory", greedy.caller, greedy.peer, held_bytes=self.incoming.used_bytes
            )
            self._break_off_connection(greedy.peer)

    def _pending(self, slow_since_s: float) -> tuple[list[RunningCall], list[RunningCall]]:
        """Return calls whose messages' sizes are not known, and those with known ones to charge."""
        unknown, slow = [], []
        for call in self._calls:
            if not call.pending_bytes:
                continue
            call.size_bytes = call.size_bytes or call.transport.next_size() or 0
            if not call.size_bytes:
                unknown.append(call)
            elif call.since_s < slow_since_s or call.pending_bytes < call.size_bytes:
                slow.append(call)
        return unknown, slow

    def _leaving_s(self, call: RunningCall) -> float:
        return self._limits.stall * (1 + call.answer_bytes / _STALL_BYTES)

    def _abort(self, call: RunningCall) -> None:
        """End a call that waits for a message: its pending read must not be cancelled."""
        call.ended = True
        status = CallStatus(
            StatusCode.DEADLINE_EXCEEDED,
            f"no message came for {self._limits.first_message:g} s (limits.first-message)",
        )
        _ending.start(call.abort_arriving(status), "late call")

    def _break_off(self, call: RunningCall) -> None:
        """Break off the connection of a call whose answer is not taken."""
        self._hits.hit("stall", call.caller, call.peer, held_bytes=call.answer_bytes)
        for each in self._calls:
            if each.peer == call.peer and each.phase is CallPhase.LEAVING:
                each.ended = True
        self._break_off_connection(call.peer)

    def _break_off_connection(self, peer: str) -> None:
        """Do it in a thread: finding the connection may take a while."""
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, self._connections.break_off, peer)
