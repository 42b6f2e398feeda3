"""Whether a peer keeps what a walk sends, or evicts it for what follows.

A machine without I/O. To a peer with less room than is held here a walk would send for ever: each
object for another that was sent before. So some of those that were delivered are asked about, each
once, because to be asked about may be a use to the peer, or a lease. They are spread evenly over
all that was delivered: some peers evict what came first, a node of this project what was used
longest ago, which is what came last.
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
    """The samples of one walk."""

    def __init__(self) -> None:
        self._delivered: list[Digest] = []  # and not asked about yet
        self._new, self._new_bytes = 0, 0  # delivered since the last question
        self._answers: deque[tuple[bool, int]] = deque(maxlen=JUDGED_MAX)  # gone or not, its size
        self.evicts = False

    def __repr__(self) -> str:
        return f"<Fit {'evicts' if self.evicts else 'keeps'}, {len(self._delivered)} to ask about>"

    def delivered(self, digests: Sequence[Digest]) -> None:
        """Record blobs that were sent and confirmed."""
        self._delivered.extend(digests)
        self._new += len(digests)
        self._new_bytes += sum(digest.size_bytes for digest in digests)
        if len(self._delivered) > _REMEMBERED_MAX:
            # Every second one, so that the rest is still spread over all that was delivered.
            self._delivered = self._delivered[::2]

    def sample(self) -> list[Digest]:
        """Take some of those delivered, none of the last ones, which may be evicted in a moment."""
        # Twice as much as is asked about, so that there are newer ones to be left out.
        if self._new < 2 * SAMPLE and self._new_bytes < 2 * LOST_BYTES:
            return []
        self._new, self._new_bytes = 0, 0
        count = len(self._delivered)
        asked = min(SAMPLE, count // 2)
        # All places are below count - asked: the last ones are left out.
        places = {place * (count - asked) // asked for place in range(asked)}
        sample = [digest for at, digest in enumerate(self._delivered) if at in places]
        self._delivered = [digest for at, digest in enumerate(self._delivered) if at not in places]
        return sample

    def answered(self, asked: Sequence[Digest], missing: Collection[Digest]) -> None:
        """Record the answer to a sample."""
        self._answers.extend((digest in missing, digest.size_bytes) for digest in asked)
        lost = [size_bytes for is_gone, size_bytes in self._answers if is_gone]
        is_much = len(lost) >= LOST_MIN or sum(lost) >= LOST_BYTES
        # Some are lost at every peer, by its own users' writes; only a large share shows that the
        # walk itself displaces what it sent.
        if is_much and len(lost) >= _LOST_SHARE * len(self._answers):
            self.evicts = True
