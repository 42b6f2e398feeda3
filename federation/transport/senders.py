"""The calls of one connection that wait until what they have sent is on its way."""

from __future__ import annotations

from typing import Protocol

_TURN_BYTES = 2**14  # what a stream sends before it is another's turn: a frame


class WaitingSender(Protocol):
    """A call that waits."""

    def wake_sender(self) -> None:
        """Go on if all is on its way."""
        ...


class Senders:
    """Those that wait. Looking at each of many after every small output took a tenth of a read."""

    def __init__(self) -> None:
        self._waiting: set[WaitingSender] = set()
        self._unseen_bytes = 0  # sent since they were looked at

    def __repr__(self) -> str:
        return f"<Senders {len(self._waiting)} wait>"

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, call: WaitingSender) -> None:
        """A call begins to wait."""
        self._waiting.add(call)

    def discard(self, call: WaitingSender) -> None:
        """It does not wait any more."""
        self._waiting.discard(call)

    def sent(self, size_bytes: int, *, is_all: bool) -> None:
        """Wake those that are through: at the end of all output, or when each had its turn.

        As streams send in turn, few of many are through after less.
        """
        self._unseen_bytes += size_bytes
        if is_all or self._unseen_bytes >= _TURN_BYTES * len(self._waiting):
            self._unseen_bytes = 0
            for call in list(self._waiting):
                call.wake_sender()
