"""Which of the bytes that a client sends are overhead, and how much of that it may send.

Every byte that is neither a message's nor a call's is overhead: control frames, prefixes of tiny
frames, padding, and data of streams that are over. So much at once and each second is allowed, and
more in proportion to what is useful; a connection that has more is a flood. Honest clients stay
below a tenth of it.

Data that a client may have sent before it learnt that its stream is over is useful, however late
it comes (RFC 9113, section 5.1, "closed"). How much that is at most is known exactly:

- Of each stream that this side has reset, what was left of its window then.
- Of no more streams than may be open at once: a client that opens another one has learnt of the
  end of an older one, and what it sent before has come before.
- And once the part of a frame that came before its stream was reset: such a frame is never
  delivered, and no more than one can be incomplete.

Pure: it is told the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ngh2.events import DataReceived, Event, RequestReceived

_AT_ONCE_BYTES, _PER_S_BYTES = 2**16, 2**14
_CALL_BYTES = 512  # of headers that every call may bring, and of frames that end it
_PER_SENT = 64  # a client that reads says so: a byte for so many that it was sent
_FRAME_BYTES = 2**14  # of data in the largest frame that clients may send


class Overhead:
    """The count of one connection."""

    def __init__(self, streams_max: int, now_s: float) -> None:
        """streams_max: how many streams a client may have open at once."""
        self._allowed_bytes = float(_AT_ONCE_BYTES)
        self._counted_s = now_s
        self._sent_bytes = 0  # since the last count
        self._streams_max = streams_max
        self._windows: deque[int] = deque()  # of the last streams that were reset
        self._windows_bytes = 0  # their sum
        # Data that came and was not delivered; below 0: what may still come so.
        self._undelivered_bytes = 0
        self._charged_bytes = 0  # as overhead, of that

    def __repr__(self) -> str:
        return f"<Overhead {self._allowed_bytes:.0f} bytes left>"

    def sent(self, size_bytes: int) -> None:
        """So much was sent to the client."""
        self._sent_bytes += size_bytes

    def reset(self, window_bytes: int) -> None:
        """A stream was reset whose client may have sent so much that has not come yet."""
        self._windows.append(window_bytes)
        self._windows_bytes += window_bytes
        if len(self._windows) > self._streams_max:
            self._windows_bytes -= self._windows.popleft()
        undelivered_bytes = self._undelivered_bytes - window_bytes - _FRAME_BYTES
        self._undelivered_bytes = max(undelivered_bytes, -self._windows_bytes - _FRAME_BYTES)

    def admits(
        self, size_bytes: int, data_bytes: int, events: Sequence[Event], now_s: float
    ) -> bool:
        """Count what came; False: it is a flood.

        size_bytes: all of it; data_bytes: what was in DATA frames, with padding, of any stream;
        events: what became of it.
        """
        useful_bytes = self._sent_bytes // _PER_SENT
        self._sent_bytes = 0
        undelivered_bytes = data_bytes
        for event in events:
            if type(event) is DataReceived:
                undelivered_bytes -= len(event.data)
            elif type(event) is RequestReceived:
                useful_bytes += _CALL_BYTES
        if undelivered_bytes or self._charged_bytes:
            self._undelivered_bytes += undelivered_bytes
            charged_bytes = max(0, self._undelivered_bytes)
            data_bytes -= charged_bytes - self._charged_bytes
            self._charged_bytes = charged_bytes
        # A half more, for the prefixes of small frames.
        overhead_bytes = size_bytes - useful_bytes - data_bytes - data_bytes // 2
        if overhead_bytes > _CALL_BYTES:  # perhaps long headers
            overhead_bytes -= sum(
                len(name) + len(value)
                for event in events
                if isinstance(event, RequestReceived)
                for name, value in event.headers
            )
        refill_bytes = (now_s - self._counted_s) * _PER_S_BYTES
        self._counted_s = now_s
        allowed_bytes = self._allowed_bytes + refill_bytes - overhead_bytes
        self._allowed_bytes = min(_AT_ONCE_BYTES, allowed_bytes)
        return self._allowed_bytes >= 0
