"""One running call as its bounds see it: what it waits for, and what it holds."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Any, Final

from federation.core.fair_share import FairShare
from federation.services.status_codes import CallStatus
from federation.services.transport import Transport

NEVER_S: Final = float("inf")


class CallPhase(Enum):
    """What a call waits for."""

    ARRIVING = auto()  # its first message
    RUNNING = auto()
    LEAVING = auto()  # its answer, or its status, being taken


class RunningCall:
    """One call; RunningCalls keeps its numbers."""

    __slots__ = (
        "answer_bytes",
        "caller",
        "counted_in",
        "ended",
        "is_draining",
        "is_late",
        "late_at_s",
        "peer",
        "pending_bytes",
        "phase",
        "request_bytes",
        "since_s",
        "size_bytes",
        "task",
        "transport",
        "waits_for_room",
    )

    def __init__(self, transport: Transport, caller: str) -> None:
        """caller: what limits tell callers apart by, an identity, or without one an address."""
        self.transport = transport
        self.caller = caller
        self.peer = transport.peer.text
        self.counted_in: FairShare | None = None  # until it ends
        self.phase = CallPhase.RUNNING
        self.since_s = 0.0
        self.pending_bytes = 0  # of RunningCalls.incoming, for the message being read
        self.size_bytes = 0  # of that message, where its transport knows
        self.request_bytes = 0  # of RunningCalls.incoming, for those that have come
        self.answer_bytes = 0  # of RunningCalls.outgoing
        self.ended = False  # by this node, from outside of the call's task
        self.waits_for_room = False  # until there is room for its message
        self.task: asyncio.Task[Any] | None = None  # that runs it
        self.late_at_s = NEVER_S  # when its handler has taken too long
        self.is_late = False  # it was cancelled for that
        self.is_draining = False  # whatever is still read is dropped

    async def abort_arriving(self, status: CallStatus) -> None:
        """End it with this status, unless its message has come meanwhile."""
        if self.phase is not CallPhase.ARRIVING:
            self.ended = False
            return
        await self.transport.abort(status)
