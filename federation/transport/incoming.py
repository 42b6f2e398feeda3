"""What comes of one stream: whole messages, and the windows that let them come.

A message that is being read is acknowledged as it comes, so that the client may send all of it.
What comes before its handler reads stays unacknowledged: the stream's window bounds it, and it
counts in the node's budget.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from federation.transport.framing import PREFIX_BYTES, MalformedMessage, Messages, Packed, TooLong
from federation.transport.session import Session


class ReceiveBounds(NamedTuple):
    """What a call may receive, in bytes."""

    request_bytes: int  # a message, as its method says
    message_bytes: int  # a message of any method
    window_bytes: int  # before its handler reads
    lookahead_bytes: int  # ahead of a handler that reads many


class ReceivedStream:
    """The client's side of one stream."""

    __slots__ = (
        "_acknowledged_bytes",
        "_bounds",
        "_count_unread",
        "_messages",
        "_session",
        "_stream",
        "_taken_bytes",
        "_unread_bytes",
        "_window_bytes",
        "is_half_closed",
    )

    def __init__(
        self,
        session: Session,
        stream: int,
        bounds: ReceiveBounds,
        count_unread: Callable[[int], None],
    ) -> None:
        """count_unread: told by how much what has come and nobody reads yet grows or shrinks."""
        self.is_half_closed = False  # nothing more will come
        self._session = session
        self._stream = stream
        self._bounds = bounds
        self._count_unread = count_unread
        self._messages = Messages(min(bounds.request_bytes, bounds.message_bytes))
        self._window_bytes = bounds.window_bytes
        self._taken_bytes = 0  # of all that came; so the next two
        self._acknowledged_bytes = 0
        self._unread_bytes = 0

    def __repr__(self) -> str:
        return f"<ReceivedStream {self._messages!r}, {self._unread_bytes} unread>"

    @property
    def held_bytes(self) -> int:
        """What has come and is not taken."""
        return self._messages.held_bytes

    def add(self, data: bytes, *, end: bool) -> None:
        """Append what came; settle() once that is all for now."""
        self.is_half_closed = end
        self._messages.add(data)

    def next_size(self) -> int | None:
        """Return how many bytes the next message has, if that is known yet."""
        try:
            return self._messages.next_size()
        except (MalformedMessage, TooLong):
            return None  # take() says so

    def take(self) -> Packed | None:
        """Return the next message once all of it is here. Raises MalformedMessage, TooLong."""
        packed = self._messages.take()
        if packed is not None:
            self._taken_bytes += PREFIX_BYTES + len(packed.data)
            self._settle(self._taken_bytes)
        return packed

    def only(self) -> bytes | None:
        """Return the message if it is all that came; it stays."""
        return self._messages.only()

    def drop(self) -> None:
        """Take everything that is here, and forget it."""
        self._taken_bytes += self._messages.held_bytes
        self._messages.clear()
        self._settle(self._taken_bytes)

    def look_ahead(self) -> None:
        """Let more come, as the handler reads many messages."""
        if self._bounds.lookahead_bytes > self._window_bytes:
            self._widen(self._bounds.lookahead_bytes)

    def settle(self, *, is_read: bool) -> bool:
        """Acknowledge what is taken, or is of a message that is waited for.

        Return whether the wait is over: by a whole message, or one that never will be.
        """
        if not is_read:
            self._settle(self._taken_bytes)
            return False
        try:
            size_bytes = self._messages.next_size()
        except (MalformedMessage, TooLong):
            self._settle(self._taken_bytes)
            return True
        wanted_bytes = PREFIX_BYTES + (size_bytes or 0)
        if size_bytes is not None and size_bytes > self._window_bytes // 2:
            self._widen(size_bytes + self._window_bytes)
        self._settle(self._taken_bytes + wanted_bytes)
        is_whole = size_bytes is not None and self.held_bytes >= wanted_bytes
        return is_whole or self.is_half_closed

    def _settle(self, wanted_bytes: int) -> None:
        """Acknowledge all that came up to there, and count the rest."""
        arrived_bytes = self._taken_bytes + self._messages.held_bytes
        wanted_bytes = min(wanted_bytes, arrived_bytes)
        if wanted_bytes > self._acknowledged_bytes:
            self._session.acknowledge(self._stream, wanted_bytes - self._acknowledged_bytes)
            self._acknowledged_bytes = wanted_bytes
        unread_bytes = arrived_bytes - self._acknowledged_bytes
        if unread_bytes != self._unread_bytes:
            self._count_unread(unread_bytes - self._unread_bytes)
            self._unread_bytes = unread_bytes

    def _widen(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._session.widen(self._stream, window_bytes)
