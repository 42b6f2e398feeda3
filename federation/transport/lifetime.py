"""What one connection waits for, and since when. Pure: it is told the time."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

HANDSHAKE_S: Final = 15.0  # for TLS and the first frame
FRAME_S: Final = 30.0  # for one frame, and for a block of headers
SILENT_S: Final = 60.0  # then a client is asked for a sign of life
DEAD_S: Final = 5 * 60.0  # after that; on a slow link the answer waits behind what is under way
IDLE_S: Final = 30 * 60.0  # without a call
NOTICE_S: Final = 1.0  # between saying that the connection will end and taking no more calls
CLOSING_S: Final = 10.0  # for what is left to be sent


class Due(Enum):
    """What is to be done with a connection."""

    NOTHING = auto()
    ASK = auto()  # for a sign of life
    DRAIN = auto()  # it was idle for too long
    END = auto()  # take no more calls
    LATE_HANDSHAKE = auto()  # close it for one of these
    LATE_FRAME = auto()
    DEAD = auto()


class Lifetime:
    """The times of one connection."""

    __slots__ = (
        "_asked",
        "_began_s",
        "_closing_s",
        "_draining_s",
        "_frame_s",
        "_heard_s",
        "_idle_s",
        "has_ended",
        "is_established",
    )

    def __init__(self, now_s: float) -> None:
        """Begin when a client has connected."""
        self._began_s = self._heard_s = self._idle_s = now_s
        self._frame_s: float | None = None  # since when bytes came that are no whole frame
        self._draining_s: float | None = None
        self._closing_s: float | None = None
        self._asked = False
        self.is_established = False  # HTTP/2 is spoken
        self.has_ended = False  # no more calls are taken

    def __repr__(self) -> str:
        state = "established" if self.is_established else "new"
        return f"<Lifetime {'closing' if self.is_closing else state}>"

    @property
    def is_draining(self) -> bool:
        """Whether its end was announced."""
        return self._draining_s is not None

    @property
    def is_closing(self) -> bool:
        """Whether it is closed once what is left is sent."""
        return self._closing_s is not None

    def hear(self, now_s: float) -> None:
        """Something came."""
        self._heard_s = now_s
        self._asked = False

    def frames(self, now_s: float, *, whole: bool) -> None:
        """What came was HTTP/2: with a whole frame, or without any."""
        if whole:
            self._frame_s = None
        elif self._frame_s is None:
            self._frame_s = now_s

    def idle(self, now_s: float) -> None:
        """The last call is over."""
        self._idle_s = now_s

    def drain(self, now_s: float) -> None:
        """The end is announced."""
        self._draining_s = now_s

    def close(self, now_s: float) -> None:
        """It is to be closed."""
        if self._closing_s is None:
            self._closing_s = now_s

    def due(self, now_s: float, *, has_calls: bool) -> Due:
        """Return what is due; asked for again and again."""
        if self._closing_s is not None:
            return Due.DEAD if now_s - self._closing_s > CLOSING_S else Due.NOTHING
        if not self.is_established:
            return Due.LATE_HANDSHAKE if now_s - self._began_s > HANDSHAKE_S else Due.NOTHING
        silent_s = now_s - self._heard_s
        frame_s = 0.0 if self._frame_s is None else now_s - self._frame_s
        if frame_s > FRAME_S:
            return Due.LATE_FRAME
        if silent_s > SILENT_S + DEAD_S:
            return Due.DEAD
        return self._due_later(now_s, silent_s, frame_s, has_calls)

    def _due_later(self, now_s: float, silent_s: float, frame_s: float, has_calls: bool) -> Due:
        if self._draining_s is not None:
            is_over = now_s - self._draining_s > NOTICE_S and not self.has_ended
            return Due.END if is_over else Due.NOTHING
        if not has_calls and now_s - self._idle_s > IDLE_S:
            return Due.DRAIN
        # The answer to a PING is a whole frame, which cannot come within another one.
        if not self._asked and (frame_s > FRAME_S / 2 or silent_s > SILENT_S):
            self._asked = True
            return Due.ASK
        return Due.NOTHING
