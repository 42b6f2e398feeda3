"""One running call as its bounds see it: what it waits for, and what it holds."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Any, Final

from federation.core.fair_share import FairShare

NEVER_S: Final = float("inf")


class CallPhase(Enum):
    """What a call waits for."""

    ARRIVING = auto()  # its first message
    RUNNING = auto()
    LEAVING = auto()  # its answer, or its status, being taken


class RunningCall:
    """One call."""

    __slots__ = (
        "answer_bytes",
        "caller",
        "context",
        "ended",
        "held_up",
        "is_late",
        "late_at_s",
        "peer",
        "pending_bytes",
        "phase",
        "request_bytes",
        "share",
        "since_s",
        "takes_no_more",
        "task",
    )

    def __init__(self, context: Any, caller: str, peer: str, share: FairShare | None) -> None:
        self.context = context
        self.caller = caller
        self.peer = peer
        self.share = share
        self.phase = CallPhase.RUNNING
        self.since_s = 0.0
        self.pending_bytes = 0  # of RunningCalls.incoming, for the message being read
        self.request_bytes = 0  # of RunningCalls.incoming, for those that have come
        self.answer_bytes = 0  # of RunningCalls.outgoing
        self.ended = False  # by us, from outside
        self.held_up = False  # until there is room for its message
        self.task: asyncio.Task[Any] | None = None  # that runs it
        self.late_at_s = NEVER_S  # when its handler has taken too long
        self.is_late = False  # it was cancelled for that
        self.takes_no_more = False  # whatever is still read is dropped
