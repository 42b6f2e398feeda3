"""How much is sent in one batch, and how many batches at once: what takes the peer a few seconds.

A machine without I/O. Over a slow link large batches run into time limits and keep everything
behind them waiting; to a peer that takes long over each object, only many batches at once help.
Batches that are smaller than they need be cost most where it hurts most: on a busy machine each
takes a second, however small it is. So they grow as long as they take less than TARGET_S.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from federation.core.digest import Digest

TARGET_S = 4.0
# A peer that takes so long over each object is helped by many small batches at once. A machine that
# is merely busy takes as long over a batch, however many there are in it: far less over each.
SLOW_S = 1.0
SLOW_OBJECT_S = 0.1
ITEMS_MAX = 1000
BATCHES_MAX = 16
MEMORY_BYTES = 32 * 2**20  # of all batches under way
_FIRST_BYTES = 2**18
_LEAST_BYTES = 16 * 2**10
_FIRST_BATCHES = 4


class BatchSize:
    """The current batch size, adjusted after each batch."""

    def __init__(self) -> None:
        self.bytes_max = _FIRST_BYTES
        self.items_max = ITEMS_MAX
        self.at_once = _FIRST_BATCHES

    def __repr__(self) -> str:
        return f"<BatchSize {self.at_once} of {self.items_max} blobs, {self.bytes_max} bytes>"

    @property
    def slots(self) -> int:
        """How many batches may be under way."""
        # At least one, however large its blobs: otherwise nothing would ever be sent.
        return min(self.at_once, max(1, MEMORY_BYTES // self.bytes_max))

    def took(self, items: int, size_bytes: int, seconds: float, peer_bytes_max: int) -> None:
        """Adjust to the time in seconds that a batch took.

        peer_bytes_max: the most bytes that the peer takes in one batch.
        """
        if items > 1 and seconds > max(2 * SLOW_S, SLOW_OBJECT_S * items):
            self.at_once = min(BATCHES_MAX, self.at_once + 1)
            share = SLOW_S / seconds
            self.items_max = max(1, int(min(self.items_max, items) * share))
            self.bytes_max = max(_LEAST_BYTES, int(min(self.bytes_max, size_bytes) * share))
            return
        if seconds > 3 * TARGET_S:
            self._slower(items, size_bytes, TARGET_S / seconds)
            return
        if seconds < 1.5 * TARGET_S:
            self.at_once = min(BATCHES_MAX, self.at_once + 1)
        # A batch that was less than half full does not show what a larger one would take.
        if seconds < TARGET_S and (2 * items >= self.items_max or 2 * size_bytes >= self.bytes_max):
            self.items_max = min(ITEMS_MAX, self.items_max * 2)
            self.bytes_max = min(max(_LEAST_BYTES, peer_bytes_max), self.bytes_max * 2)

    def failed(self, items: int, size_bytes: int) -> None:
        """Adjust to a batch that was not answered in time."""
        self._slower(items, size_bytes, 0.25)

    def _slower(self, items: int, size_bytes: int, share: float) -> None:
        # First fewer bytes; of batches that are small already, fewer blobs; of single blobs, fewer
        # at once, since those that are under way together share the link.
        if items > 1 and size_bytes > _LEAST_BYTES:
            self.bytes_max = max(_LEAST_BYTES, int(min(self.bytes_max, size_bytes) * share))
            self.items_max = max(1, int(min(self.items_max, items) * share))
        elif items > 1:
            self.items_max = max(1, int(min(self.items_max, items) * share))
        else:
            self.at_once = max(1, self.at_once // 2)

    def cut(self, digests: Sequence[Digest], peer_bytes_max: int) -> Iterator[list[Digest]]:
        """Yield batches in order; the size of each is decided when it is requested."""
        batch: list[Digest] = []
        size_bytes = 0
        for digest in digests:
            limit_bytes = min(self.bytes_max, peer_bytes_max)
            # A blob above the limit goes alone: it cannot be cut.
            full = size_bytes + digest.size_bytes > limit_bytes or len(batch) >= self.items_max
            if batch and full:
                yield batch
                batch, size_bytes = [], 0
            batch.append(digest)
            size_bytes += digest.size_bytes
        if batch:
            yield batch
