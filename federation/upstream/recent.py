"""The last bytes that a pull has received, in memory: what those who follow it read without disk.

Those who keep up are given one and the same piece, however many they are. Pieces that are not yet
written are always here; beyond those, as many as the node's memory budget has room for.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

KEPT_BYTES = 4 * 1024 * 1024  # of one pull, beside what is not yet written


class Budget(Protocol):
    """The node's bound on blob bytes in memory."""

    def try_take(self, size_bytes: int) -> bool:
        """Take this much if there is room."""
        ...

    def give_back(self, size_bytes: int) -> None:
        """Return what try_take gave."""
        ...


class NoBound:
    """A budget without end."""

    def try_take(self, size_bytes: int) -> bool:
        """See Budget."""
        del size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        """See Budget."""


class Recent:
    """Pieces in order, the oldest forgotten first."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._pieces: deque[bytes] = deque()
        self._start = 0  # offset of the first piece
        self._budgeted_bytes = 0
        self._joined: tuple[int, int, bytes] | None = None  # the last read that several asked for
        self.end = 0  # all that has come in pieces

    def __repr__(self) -> str:
        return f"<Recent {self._start}..{self.end}>"

    def add(self, piece: bytes) -> None:
        """Keep the next bytes, which are about to be written."""
        self._pieces.append(piece)
        self.end += len(piece)

    def wrote(self, received_bytes: int) -> None:
        """Everything below is in the file: keep of it what there is room for."""
        written = max(0, received_bytes - self._start)
        wanted = min(written, KEPT_BYTES)
        if wanted > self._budgeted_bytes and self._budget.try_take(wanted - self._budgeted_bytes):
            self._budgeted_bytes = wanted
        while self._pieces and written > self._budgeted_bytes:
            piece = self._pieces[0]
            if self._start + len(piece) > received_bytes:
                return
            self._forget(piece)
            written -= len(piece)

    def read(self, offset: int, size_bytes: int, *, shared: bool = False) -> bytes | None:
        """Return bytes from offset on, at most so many; None: they are in the file only.

        shared: others may ask for the same.
        """
        if not self._start <= offset < self.end:
            return None
        at = self._start
        for number, piece in enumerate(self._pieces):
            if offset < at + len(piece):
                size_bytes = min(size_bytes, self.end - offset)
                return self._cut(number, offset - at, offset, size_bytes, shared)
            at += len(piece)
        return None

    def close(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self._joined = None
        self._start = self.end
        self._budget.give_back(self._budgeted_bytes)
        self._budgeted_bytes = 0

    def _cut(self, number: int, skipped: int, offset: int, size_bytes: int, shared: bool) -> bytes:
        piece = self._pieces[number]
        if skipped == 0 and size_bytes == len(piece):
            return piece
        if self._joined is not None and self._joined[:2] == (offset, size_bytes):
            return self._joined[2]
        parts: list[memoryview] = []
        left_bytes = size_bytes
        while left_bytes:
            part = memoryview(self._pieces[number])[skipped : skipped + left_bytes]
            parts.append(part)
            left_bytes -= len(part)
            number, skipped = number + 1, 0
        data = b"".join(parts)
        if shared:
            self._joined = offset, size_bytes, data
        return data

    def _forget(self, piece: bytes) -> None:
        self._pieces.popleft()
        self._start += len(piece)
        if self._joined is not None and self._joined[0] < self._start:
            self._joined = None
