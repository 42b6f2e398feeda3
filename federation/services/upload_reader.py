"""The messages of an upload, each read when there is room for it."""

from __future__ import annotations

from federation.config.model import LimitsConfig
from federation.services.arrivals import LEAST_BYTES
from federation.services.running import RunningCalls
from federation.services.running_call import RunningCall

_FIRST_BYTES = 2**20  # what clients send in one message of an upload, about


class UploadReader:
    """Reads the messages of an upload, each when there is room for one like the last."""

    def __init__(self, calls: RunningCalls, call: RunningCall, limits: LimitsConfig) -> None:
        self._calls = calls
        self._call = call
        self._next_bytes = min(_FIRST_BYTES, limits.message)
        self._first = True

    async def read(self) -> bytes | None:
        """Return the next message; None after the last one. Raises CallEnded."""
        first, self._first = self._first, False
        message = await self._calls.read(self._call, self._next_bytes, first=first)
        if message is not None:
            self._next_bytes = max(LEAST_BYTES, len(message))
        return message

    def held_up(self) -> bool:
        """Whether there is no room for the next message yet."""
        return self._call.held_up

    def gone(self, size_bytes: int) -> None:
        """A message of this size is not held any more."""
        self._calls.is_gone(self._call, size_bytes)
