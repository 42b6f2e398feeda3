"""A cache of the names of blobs that were found recently: they need no thread and no SQLite.

When you would want it: builds ask for the same thousands of blobs again and again.

A name expires soon, and at once when any object is marked for eviction, quarantined or gone, in any
process, or any blob file has changed: the epoch shows that. An answer from here gives a lease like
a look-up, without recording a touch: eviction spares what was touched within a lease plus twice the
granularity (Timing.cutoff_age_ms). One granularity allows for access times that are not renewed at
each look-up; of the other, half allows for a slow look-up and half for the age of a name in this
cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

NAMES_MAX = 60_000  # per process; a single longer list may exceed it; 150 bytes each
_IN_LISTS_MAX = 30_000  # things in lists that are remembered as a whole
_PROBED = 8  # things

_T = TypeVar("_T")


class ExistenceCache:
    """Names in two generations. Used from the event loop only."""

    def __init__(
        self, epoch: Callable[[], int], granularity_ms: int, names_max: int = NAMES_MAX
    ) -> None:
        """epoch: returns a number that differs after any held object is gone."""
        self._epoch = epoch
        # A name lives for one to two generations, so for half a granularity at most: see above.
        self._generation_ms = granularity_ms // 4
        self._slow_ms = granularity_ms // 2
        self._half_max = names_max // 2
        self._seen = epoch()
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()
        # Lists of which nothing had to be looked up, by their ids; forgotten with any name.
        self._lists: dict[int, tuple[object, ...]] = {}
        self._in_lists = 0
        self._turns_ms = 0  # store time when the young generation becomes the old one

    def __repr__(self) -> str:
        names = len(self._young) + len(self._old)
        return f"<ExistenceCache {names} names, lists of {self._in_lists}>"

    @property
    def epoch(self) -> int:
        """The current epoch; pass the one from before a look-up to remember()."""
        return self._epoch()

    @property
    def seen(self) -> int:
        """The epoch that unknown() found, for a look-up that begins right behind it."""
        return self._seen

    def unknown(self, names: Sequence[bytes], now_ms: int) -> Sequence[bytes]:
        """Return the names that have to be looked up, in order."""
        self._turn(now_ms)
        young, old = self._young, self._old
        if not young and not old:
            return names
        return [name for name in names if name not in young and name not in old]

    def knows(self, things: Sequence[_T], name_of: Callable[[_T], bytes], now_ms: int) -> bool:
        """Return whether no name of these things has to be looked up.

        name_of: gives the same name each time. The last tuples that were wholly known are
        remembered, as long as their names are: a repeated request brings the same object again.
        """
        self._turn(now_ms)
        if self._lists.get(id(things)) is things:
            return True
        young, old = self._young, self._old
        # Where some are unknown the first ones mostly show it, without a look at all of them.
        first = map(name_of, islice(things, _PROBED))
        if any(name not in young and name not in old for name in first):
            return False
        names = set(map(name_of, things))  # compared as a whole, in C
        # Names that were remembered together are mostly of one generation.
        if not (names <= young or names - young <= old):
            return False
        if type(things) is tuple and len(things) > 1:  # no other kind is sure to stay as it is
            self._keep_list(things)
        return True

    def _keep_list(self, things: tuple[object, ...]) -> None:
        self._in_lists += len(things)
        if self._in_lists > _IN_LISTS_MAX:
            self._lists, self._in_lists = {}, len(things)
        self._lists[id(things)] = things  # which keeps it: no other object has its id

    def remember(self, names: Iterable[bytes], asked_ms: int, now_ms: int, epoch: int) -> None:
        """Remember names that a look-up found and leased; it began at asked_ms in this epoch."""
        self._turn(now_ms)
        # Something has gone since the look-up began, or the lease it gave is too old already.
        if epoch != self._seen or now_ms - asked_ms > self._slow_ms:
            return
        self._young.update(names)
        # A full generation turns early: half of the names go, those that were met longest ago.
        if len(self._young) > self._half_max:
            self._begin(self._young)

    def _turn(self, now_ms: int) -> None:
        if (epoch := self._epoch()) != self._seen:
            self._seen = epoch
            self._begin(set())
        if now_ms >= self._turns_ms:
            # Nobody asked for a whole generation: the young names are as old as old ones then.
            is_late = now_ms >= self._turns_ms + self._generation_ms
            self._begin(set() if is_late else self._young)
            self._turns_ms = now_ms + self._generation_ms

    def _begin(self, old: set[bytes]) -> None:
        """Begin a generation; old: the names of the one before."""
        self._young, self._old = set(), old
        self._lists, self._in_lists = {}, 0
