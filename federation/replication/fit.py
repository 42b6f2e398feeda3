"""Whether a peer keeps what a walk through all that is held brings it, or evicts it for the rest.

A machine without I/O. To a peer with less room than is held here a walk would send for ever: each
object for another that was sent before. So those that were delivered first are asked about once.
Once only, because to be asked about may be a use to the peer, or a lease.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from federation.core.digest import Digest

SAMPLE = 20  # are asked about at a time
LOST_MIN, JUDGED_MAX = 20, 60  # how many of the last ones are gone where a peer evicts
LOST_BYTES = 64 * 2**20  # or how much of large ones
_LOST_SHARE = 0.4
_REMEMBERED_MAX = 10_000


class Fit:
    """What one walk knows."""

    def __init__(self) -> None:
        self._delivered: deque[Digest] = deque()
        self._delivered_bytes = 0
        self._answers: deque[tuple[bool, int]] = deque(maxlen=JUDGED_MAX)  # gone or not, its size
        self.evicts = False

    def __repr__(self) -> str:
        return f"<Fit {'evicts' if self.evicts else 'keeps'}, {len(self._delivered)} to ask about>"

    def delivered(self, digests: Sequence[Digest]) -> None:
        """Note what was sent and is there now."""
        self._delivered.extend(digests)
        self._delivered_bytes += sum(digest.size_bytes for digest in digests)
        while len(self._delivered) > _REMEMBERED_MAX:
            self._take_first()

    def _take_first(self) -> Digest:
        first = self._delivered.popleft()
        self._delivered_bytes -= first.size_bytes
        return first

    def sample(self) -> list[Digest]:
        """Take some that were delivered longest ago, none of the later half."""
        count = len(self._delivered)
        if count < 2 * SAMPLE and self._delivered_bytes < 2 * LOST_BYTES:
            return []
        return [self._take_first() for _ in range(min(SAMPLE, count // 2))]

    def answered(self, asked: Sequence[Digest], missing: Collection[Digest]) -> None:
        """Note which of them are gone."""
        self._answers.extend((digest in missing, digest.size_bytes) for digest in asked)
        lost = [size_bytes for is_gone, size_bytes in self._answers if is_gone]
        is_much = len(lost) >= LOST_MIN or sum(lost) >= LOST_BYTES
        if is_much and len(lost) >= _LOST_SHARE * len(self._answers):
            self.evicts = True
