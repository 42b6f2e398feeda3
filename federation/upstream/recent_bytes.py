"""The last bytes that a pull has received, in memory, so that readers that keep up need no disk.

Pieces that are not yet written are always kept; beyond those, as many as the node's memory budget
has room for. Readers at the same offset get one and the same object, however many they are.
"""

from __future__ import annotations

from collections import deque

from federation.core.memory_budget import MemoryBudget

KEPT_BYTES = 4 * 1024 * 1024  # of one pull, beside what is not yet written


class RecentBytes:
    """The last pieces, in order; the oldest are dropped first."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._pieces: deque[bytes] = deque()
        self._start = 0  # offset of the first piece
        self._budgeted_bytes = 0
        self._joined: tuple[int, int, bytes] | None = None  # the last read that several asked for
        self.end = 0  # how many bytes have come in pieces

    def __repr__(self) -> str:
        return f"<RecentBytes {self._start}..{self.end}>"

    def add(self, piece: bytes) -> None:
        """Keep the next bytes, which are about to be written."""
        self._pieces.append(piece)
        self.end += len(piece)

    def wrote(self, received_bytes: int) -> None:
        """Drop pieces that are in the file now, except for as many as there is room for."""
        written = max(0, received_bytes - self._start)
        wanted = min(written, KEPT_BYTES)
        # Taken once and kept until the end: a full budget leaves what this pull has already.
        if wanted > self._budgeted_bytes and self._budget.try_acquire(
            wanted - self._budgeted_bytes
        ):
            self._budgeted_bytes = wanted
        while self._pieces and written > self._budgeted_bytes:
            piece = self._pieces[0]
            # Dropped as a whole or not at all: its end is not in the file yet.
            if self._start + len(piece) > received_bytes:
                return
            self._drop(piece)
            written -= len(piece)

    def read(self, offset: int, size_bytes: int, *, shared: bool = False) -> bytes | None:
        """Return bytes from offset on, size_bytes at most; None: only the file has them.

        shared: other readers may ask for the same bytes.
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
        """Drop everything."""
        self._pieces.clear()
        self._joined = None
        # From now on every read goes to the file.
        self._start = self.end
        self._budget.release(self._budgeted_bytes)
        self._budgeted_bytes = 0

    def _cut(self, number: int, skipped: int, offset: int, size_bytes: int, shared: bool) -> bytes:
        piece = self._pieces[number]
        # Without a copy: a piece is what a reader at its beginning gets in most cases.
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
        # Readers at one pace ask for the same cut; it is joined once for all of them.
        if shared:
            self._joined = offset, size_bytes, data
        return data

    def _drop(self, piece: bytes) -> None:
        self._pieces.popleft()
        self._start += len(piece)
        if self._joined is not None and self._joined[0] < self._start:
            self._joined = None
