"""How large the next chunk of a read should be.

Large chunks cost the least per byte, small ones hold the least memory for a reader that does not
take them. A stream begins small, since nothing is known about its reader, and doubles while the
reader keeps up.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALL_BYTES = 64 * 1024
LARGE_BYTES = 2 * 1024 * 1024
FAST_BYTES_PER_S = 24e6  # keeps the whole ramp below a tenth of a second
SLOW_BYTES_PER_S = 4e6  # at 2 MiB a chunk, half a second between two


@dataclass(slots=True)
class ChunkSizer:
    """The chunk size of one stream."""

    chunk_bytes: int = SMALL_BYTES

    def wrote(self, size_bytes: int, seconds: float) -> None:
        """Learn that the reader took a chunk of this size in this time."""
        rate = size_bytes / max(seconds, 1e-6)
        if rate < SLOW_BYTES_PER_S:
            self.chunk_bytes = SMALL_BYTES
        elif rate > FAST_BYTES_PER_S:
            self.chunk_bytes = min(self.chunk_bytes * 2, LARGE_BYTES)
