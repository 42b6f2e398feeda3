"""The calls that run on one listener: how many each caller has, and what each waits for.

A call counts from its HEADERS until gRPC is rid of its answer. What the other side makes it wait
for has a time limit: its first message, and the answer being taken. gRPC's Python interface cannot
end a call whose answer is not taken, so the connection is broken off then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum, auto
from typing import Any

import grpc

from federation.config.model import LimitsConfig
from federation.core.admission import Admission
from federation.core.clock import Clock
from federation.core.errors import LimitReached
from federation.core.fair_share import FairShare, Verdict
from federation.observability.limit_hits import LimitHits
from federation.services import tcp

_EVERY_S = 0.5
_TAKEN_BYTES_S = 2**15  # whoever takes an answer more slowly than this has the stall on top
_LEAST_BYTES = 2**16  # gRPC takes so much of each stream by itself
_STRANGERS_PART = 10  # strangers together get one in so many of the calls

_ending: set[asyncio.Task[None]] = set()  # the event loop itself holds tasks weakly


class Phase(Enum):
    """What a call waits for."""

    ARRIVING = auto()  # its first message
    RUNNING = auto()
    LEAVING = auto()  # its answer, or its status, being taken


class Running:
    """One call."""

    __slots__ = (
        "answer_bytes",
        "caller",
        "context",
        "ended",
        "peer",
        "pending_bytes",
        "phase",
        "request_bytes",
        "share",
        "since_s",
        "takes_no_more",
    )

    def __init__(self, context: Any, caller: str, peer: str, share: FairShare | None) -> None:
        self.context = context
        self.caller = caller
        self.peer = peer
        self.share = share
        self.phase = Phase.RUNNING
        self.since_s = 0.0
        self.pending_bytes = 0  # of Calls.incoming, for the message being read
        self.request_bytes = 0  # of Calls.incoming, for those that have come
        self.answer_bytes = 0  # of Calls.outgoing
        self.ended = False  # by us, from outside
        self.takes_no_more = False  # whatever is still read is dropped


class Calls:
    """Those of one listener."""

    def __init__(
        self,
        limits: LimitsConfig,
        clock: Clock,
        hits: LimitHits,
        incoming: Admission,
        outgoing: Admission,
    ) -> None:
        """Take the limits, which may change, and what all listeners share."""
        self.incoming = incoming
        self.outgoing = outgoing
        self._limits = limits
        self._clock = clock
        self._hits = hits
        self._known = FairShare(lambda: limits.streams, lambda: limits.streams_per_caller)
        self._strangers = FairShare(lambda: max(1, limits.streams // _STRANGERS_PART))
        self._calls: set[Running] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Calls {len(self._calls)} running>"

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._calls)

    def begin(self, context: Any, caller: str, peer: str, *, stranger: bool = False) -> Running:
        """Count a call of the running task; it stops to count when the task ends.

        stranger: it is open to everybody, so it takes nothing from those who have rights.

        Raises LimitReached.
        """
        share = self._strangers if stranger else self._known
        if share.try_take(caller) is not Verdict.GRANTED:
            self._refuse(share, caller, peer)
        return self._watch(Running(context, caller, peer, share))

    def refused(self, context: Any, peer: str) -> Running:
        """Watch a call that counts nowhere, until its status is taken."""
        return self._watch(Running(context, "", peer, None))

    def _watch(self, call: Running) -> Running:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(call)
        task.add_done_callback(lambda _: self._end(call))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._look)
        return call

    def _refuse(self, share: FairShare, caller: str, peer: str) -> None:
        if share.judge(caller) is Verdict.FULL:
            limit, text = "streams", f"{share.total} calls are being answered, as many as may"
        else:
            limit = "streams-per-caller"
            text = f"{caller} has {share.used_by(caller)} calls running; what is left is for others"
        self._hits.hit(limit, caller, peer, running=share.used_by(caller), of=share.total)
        raise LimitReached(f"limits.{limit}", f"{text} (limits.{limit}); try again")

    def _end(self, call: Running) -> None:
        self._calls.discard(call)
        if call.share is not None:
            call.share.give_back(call.caller)
        self.request_is_gone(call)
        if call.answer_bytes:
            self.outgoing.give_back(call.caller, call.answer_bytes)
            call.answer_bytes = 0

    async def read(self, call: Running, most_bytes: int, *, first: bool) -> object:
        """Read a message, once there is room for one of most_bytes.

        What came counts as the call's until it is gone. Raises LimitReached when there is no room
        for as long as a stream may stand still.
        """
        if not self.incoming.try_take(call.caller, most_bytes):
            await self._room(self.incoming, call, most_bytes)
        call.pending_bytes = most_bytes
        call.since_s = self._clock.monotonic_s()
        if first:
            call.phase = Phase.ARRIVING
        came_bytes = 0
        try:
            message = await call.context.read()
            if isinstance(message, bytes):
                came_bytes = len(message)
        finally:
            call.phase = Phase.RUNNING
            self.incoming.adjust(call.caller, came_bytes - call.pending_bytes)
            call.pending_bytes = 0
            call.request_bytes += came_bytes
            if call.takes_no_more:  # the read of an upload ends by itself
                self.request_is_gone(call)
        return message

    def is_gone(self, call: Running, size_bytes: int) -> None:
        """So much of what the call brought is not held any more."""
        size_bytes = min(size_bytes, call.request_bytes)
        call.request_bytes -= size_bytes
        self.incoming.give_back(call.caller, size_bytes)

    def request_is_gone(self, call: Running) -> None:
        """Nothing of what the call brought is held any more, and nothing more is wanted."""
        held_bytes = call.request_bytes + call.pending_bytes
        call.request_bytes = call.pending_bytes = 0
        call.takes_no_more = True
        if held_bytes:
            self.incoming.give_back(call.caller, held_bytes)

    def may_answer(self, call: Running, size_bytes: int) -> bool:
        """Take room for an answer (or a message of one) until it is taken, if there is some."""
        if not self.outgoing.try_take(call.caller, size_bytes):
            return False
        call.answer_bytes += size_bytes
        return True

    async def room_to_answer(self, call: Running, size_bytes: int) -> None:
        """Wait for it. Raises LimitReached."""
        await self._room(self.outgoing, call, size_bytes)
        call.answer_bytes += size_bytes

    def answers_less(self, call: Running, by_bytes: int) -> None:
        """Give back room that an answer does not need."""
        call.answer_bytes -= by_bytes
        self.outgoing.give_back(call.caller, by_bytes)

    def answer_is_gone(self, call: Running) -> None:
        """What was sent has been taken."""
        call.phase = Phase.RUNNING
        if call.answer_bytes:
            self.outgoing.give_back(call.caller, call.answer_bytes)
            call.answer_bytes = 0

    async def _room(self, admission: Admission, call: Running, size_bytes: int) -> None:
        self._hits.hit("buffer-memory", call.caller, call.peer, held_bytes=admission.used_bytes)
        stall_s = self._limits.stall
        try:
            async with asyncio.timeout(stall_s):
                await admission.take(call.caller, size_bytes)
        except TimeoutError:
            raise LimitReached(
                "limits.buffer-memory",
                f"there was no room for {size_bytes} bytes of {call.caller} within {stall_s:g} s "
                "(limits.buffer-memory)",
            ) from None

    def leaves(self, call: Running) -> None:
        """An answer, a message of one or a status is handed to gRPC."""
        call.phase = Phase.LEAVING
        call.since_s = self._clock.monotonic_s()

    def _look(self) -> None:
        """End what has waited for too long; every half a second while there are calls."""
        self._timer = None
        now_s = self._clock.monotonic_s()
        for call in list(self._calls):
            if call.ended:
                continue
            waited_s = now_s - call.since_s
            if call.phase is Phase.ARRIVING and waited_s > self._limits.first_message:
                self._hits.hit("first-message", call.caller, call.peer)
                self._abort(call)
            elif call.phase is Phase.LEAVING and waited_s > self._leaving_s(call):
                self._break_off(call)
        if self._calls:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._look)

    def _leaving_s(self, call: Running) -> float:
        return self._limits.stall + call.answer_bytes / _TAKEN_BYTES_S

    def _abort(self, call: Running) -> None:
        """End a call that waits for a message: its pending read must not be cancelled."""
        call.ended = True
        text = f"no message came for {self._limits.first_message:g} s (limits.first-message)"
        task = asyncio.get_running_loop().create_task(_abort(call, text), name="late call")
        _ending.add(task)
        task.add_done_callback(_ending.discard)

    def _break_off(self, call: Running) -> None:
        """Break off the connection of a call whose answer is not taken."""
        self._hits.hit("stall", call.caller, call.peer, held_bytes=call.answer_bytes)
        for each in self._calls:
            if each.peer == call.peer and each.phase is Phase.LEAVING:
                each.ended = True
        break_off([call.peer])


class UploadReader:
    """Reads the messages of an upload, each when there is room for one like the last."""

    def __init__(self, calls: Calls, call: Running, limits: LimitsConfig) -> None:
        self._calls = calls
        self._call = call
        self._next_bytes = limits.message
        self._first = True

    async def read(self) -> object:
        """Return the next message, or gRPC's EOF. Raises LimitReached."""
        first, self._first = self._first, False
        message = await self._calls.read(self._call, self._next_bytes, first=first)
        if isinstance(message, bytes):
            self._next_bytes = max(_LEAST_BYTES, len(message))
        return message

    def gone(self, size_bytes: int) -> None:
        """A message of this size is not held any more."""
        self._calls.is_gone(self._call, size_bytes)


def break_off(peers: Iterable[str]) -> None:
    """Break the connections off, in a thread: finding them takes a while."""
    asyncio.get_running_loop().run_in_executor(None, _reset_all, list(peers))


def _reset_all(peers: list[str]) -> None:
    for peer in peers:
        tcp.reset(peer)


async def _abort(call: Running, text: str) -> None:
    if call.phase is not Phase.ARRIVING:
        call.ended = False  # the message came meanwhile
        return
    with suppress(grpc.aio.AbortError, grpc.aio.InternalError, grpc.aio.UsageError):
        await call.context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
