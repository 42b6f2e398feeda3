"""The bound on blob bytes held in memory over all streams (limits.buffer-memory).

No stream waits for it: one that finds no room uses its small minimum instead (one message of an
upload, a chunk of 64 KiB of a read), so a full budget slows streams down and blocks none.
"""

from __future__ import annotations


class MemoryBudget:
    """A number of bytes to share; a budget that is part of another takes from both."""

    def __init__(self, total_bytes: int, part_of: MemoryBudget | None = None) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = 0
        self._whole = part_of

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.used_bytes} of {self.total_bytes} bytes used>"

    def try_acquire(self, size_bytes: int) -> bool:
        """Take this many bytes if there is room; the caller has to give them back."""
        if self.used_bytes + size_bytes > self.total_bytes:
            return False
        # Asked after the check above, so that a refusal here leaves nothing to give back.
        if self._whole is not None and not self._whole.try_acquire(size_bytes):
            return False
        self.used_bytes += size_bytes
        return True

    def count(self, by_bytes: int) -> None:
        """Count bytes that are held whether or not there is room; below 0: released ones."""
        # Beyond the total, too: what is held already is counted, and makes others wait.
        self.used_bytes += by_bytes
        if self._whole is not None:
            self._whole.count(by_bytes)

    def release(self, size_bytes: int) -> None:
        """Return what try_acquire gave."""
        self.used_bytes -= size_bytes
        if self._whole is not None:
            self._whole.release(size_bytes)
