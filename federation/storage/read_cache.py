"""A memory cache of small blobs that are read often: they need no thread and no SQLite.

When you would want it: builds of one project read the same directories and headers all the time. A
blob is cached from its second read on, so that a single pass over everything, such as replication
to a new peer, displaces nothing.

Cached blobs were compared with their digests when they were read from the catalogue. The whole
cache is emptied when any blob is marked for eviction, quarantined or gone, in any process: the
epoch shows that. The cache knows each blob's access time, so that a read renews its lease as a
look-up would (Timing explains why a recently touched blob cannot be marked).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from federation.core.digest import Digest

ROOM_BYTES = 16 * 1024 * 1024  # of a process
_ITEM_BYTES = 400  # overhead of a cached blob
_SHARE = 64  # a blob may take at most 1/64 of the room
_ONCE_MAX = 20_000  # blobs that were read once recently; about 100 bytes each


class CachedBlob(NamedTuple):
    """A blob, and its last use (store ms) that is written to the catalogue or will be soon."""

    data: bytes
    used_ms: int


class ReadCache:
    """A bounded cache of blobs; drops the least recently used. Used from the event loop only."""

    def __init__(self, epoch: Callable[[], int], room_bytes: int = ROOM_BYTES) -> None:
        """epoch: returns a number that differs after any held object is gone."""
        self._epoch = epoch
        self._seen = epoch()
        self._room_bytes = room_bytes
        # Not plain dicts: finding their first item means skipping all items removed before it.
        self._blobs: OrderedDict[Digest, CachedBlob] = OrderedDict()  # least recently used first
        self._once: OrderedDict[int, None] = OrderedDict()  # hashes of digests, the oldest first
        self.size_bytes = 0

    def __repr__(self) -> str:
        return (
            f"<ReadCache {len(self._blobs)} blobs, {self.size_bytes} of {self._room_bytes} bytes>"
        )

    @property
    def epoch(self) -> int:
        """The current epoch; pass the one from before the read to keep()."""
        return self._epoch()

    def look_up(self, digests: Sequence[Digest]) -> list[CachedBlob | None]:
        """Return the cached blob of each digest, or None; counts as a use in the cache."""
        if self._seen != self._epoch():
            self._forget_all()
        blobs = self._blobs
        found = [blobs.get(digest) for digest in digests]
        if self.size_bytes * 2 > self._room_bytes:  # below that, the order does not matter yet
            for digest, hot in zip(digests, found, strict=True):
                if hot is not None:
                    blobs.move_to_end(digest)
        return found

    def keep(self, blobs: Iterable[tuple[Digest, CachedBlob]], epoch: int) -> None:
        """Cache blobs that were read for the second time; drop them if the epoch has changed."""
        if epoch != self._epoch():
            return
        if self._seen != epoch:
            self._forget_all()
        for digest, hot in blobs:
            self._keep_one(digest, hot)

    def touched(self, digests: Iterable[Digest], now_ms: int) -> None:
        """Record that these blobs were leased at now_ms."""
        for digest in digests:
            hot = self._blobs.get(digest)
            if hot is not None:
                self._blobs[digest] = CachedBlob(hot.data, now_ms)

    def _keep_one(self, digest: Digest, hot: CachedBlob) -> None:
        cost_bytes = len(hot.data) + _ITEM_BYTES
        # One large blob would displace many that are read more often.
        if cost_bytes * _SHARE > self._room_bytes:
            return
        if self._blobs.pop(digest, None) is None:
            # By hash, which may collide: then a blob is kept at its first read, which does no harm.
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
