"""Small blobs that are read again and again, in memory: no thread and no SQLite for those.

When you would want it: builds of one project read the same directories and headers all the time. A
blob is kept from its second read on, so that who goes through all that is held once, as replication
does for a new peer, pushes out nothing.

What is here was compared with its digest when it was read from the catalogue. It is forgotten as
soon as anything that is held is marked for eviction, quarantined or gone, in whatever process: the
epoch says so. Each blob's access time is known here, so that a lease is renewed as it would be by
looking it up (see Timing for why a blob that was touched so lately cannot be marked).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from federation.core.digest import Digest

ROOM_BYTES = 16 * 1024 * 1024  # of a process
_ITEM_BYTES = 400  # what keeping one costs beside its data
_SHARE = 64  # a blob takes at most this part of the room
_ONCE_MAX = 20_000  # blobs that were read once lately; about 100 bytes each


class CachedBlob(NamedTuple):
    """A blob, and the store time of its last use that is written or soon will be."""

    data: bytes
    used_ms: int


class ReadCache:
    """A bounded memory of blobs, those forgotten first that were not used for longest.

    Used from the event loop only.
    """

    def __init__(self, epoch: Callable[[], int], room_bytes: int = ROOM_BYTES) -> None:
        """epoch: a number that differs after anything held is gone."""
        self._epoch = epoch
        self._seen = epoch()
        self._room_bytes = room_bytes
        # The first of a plain dict is found by going over all that was removed before it.
        self._blobs: OrderedDict[Digest, CachedBlob] = OrderedDict()  # least recently used first
        self._once: OrderedDict[int, None] = OrderedDict()  # hashes of digests, the oldest first
        self.size_bytes = 0

    def __repr__(self) -> str:
        return (
            f"<ReadCache {len(self._blobs)} blobs, {self.size_bytes} of {self._room_bytes} bytes>"
        )

    @property
    def epoch(self) -> int:
        """What keep() wants to know: the epoch before the blobs were read."""
        return self._epoch()

    def look_up(self, digests: Sequence[Digest]) -> list[CachedBlob | None]:
        """Return those that are remembered, in order; using them keeps them here."""
        if self._seen != self._epoch():
            self._forget_all()
        blobs = self._blobs
        found = [blobs.get(digest) for digest in digests]
        if self.size_bytes * 2 > self._room_bytes:  # only then does the order matter soon
            for digest, hot in zip(digests, found, strict=True):
                if hot is not None:
                    blobs.move_to_end(digest)
        return found

    def keep(self, blobs: Iterable[tuple[Digest, CachedBlob]], epoch: int) -> None:
        """Remember those that are read for the second time, while the epoch was this one."""
        if epoch != self._epoch():
            return
        if self._seen != epoch:
            self._forget_all()
        for digest, hot in blobs:
            self._keep_one(digest, hot)

    def touched(self, digests: Iterable[Digest], now_ms: int) -> None:
        """Note that these were leased."""
        for digest in digests:
            hot = self._blobs.get(digest)
            if hot is not None:
                self._blobs[digest] = CachedBlob(hot.data, now_ms)

    def _keep_one(self, digest: Digest, hot: CachedBlob) -> None:
        cost_bytes = len(hot.data) + _ITEM_BYTES
        if cost_bytes * _SHARE > self._room_bytes:
            return
        if self._blobs.pop(digest, None) is None:
            if self._is_first(hash(digest)):
                return
            self.size_bytes += cost_bytes
        self._blobs[digest] = hot
        while self.size_bytes > self._room_bytes:
            _, oldest = self._blobs.popitem(last=False)
            self.size_bytes -= len(oldest.data) + _ITEM_BYTES

    def _is_first(self, name: int) -> bool:
        if name in self._once:
            del self._once[name]
            return False
        self._once[name] = None
        if len(self._once) > _ONCE_MAX:
            self._once.popitem(last=False)
        return True

    def _forget_all(self) -> None:
        self._blobs.clear()
        self.size_bytes = 0
        self._seen = self._epoch()
