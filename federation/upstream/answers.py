"""The recent answers of one upstream, kept for a short time and a bounded number of keys.

Keys are digests of blobs, or keys of index entries. No I/O. Everything is forgotten when the
upstream goes down or comes back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable


class Answers:
    """Present and absent answers of one upstream; present_s and absent_s: how long they count."""

    def __init__(self, *, present_s: float, absent_s: float, entries_max: int = 100_000) -> None:
        self.present_s = present_s
        self.absent_s = absent_s
        self._entries_max = entries_max
        self._until: OrderedDict[Hashable, tuple[bool, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Answers {len(self._until)}>"

    def note(self, keys: Iterable[Hashable], *, present: bool, now_s: float) -> None:
        """Remember an answer."""
        until_s = now_s + (self.present_s if present else self.absent_s)
        for key in keys:
            self._until[key] = (present, until_s)
            self._until.move_to_end(key)
        # The oldest goes, even if it still counts: to forget an answer costs one question.
        while len(self._until) > self._entries_max:
            self._until.popitem(last=False)

    def recall(self, key: Hashable, now_s: float) -> bool | None:
        """Return whether the upstream has it; None: never known, or too long ago."""
        answer = self._until.get(key)
        if answer is None:
            return None
        # Upstreams evict and receive without telling anybody, so an old answer says nothing.
        if now_s >= answer[1]:
            del self._until[key]
            return None
        return answer[0]

    def forget(self) -> None:
        """Drop everything: the upstream may have changed."""
        self._until.clear()


class Failures:
    """Keys that failed repeatedly, and until when each is avoided: longer each time.

    A key is forgotten when it succeeds or has not failed for long; all are when the upstream goes
    down or comes back.
    """

    def __init__(
        self, *, first_s: float, longest_s: float = 600.0, free: int = 0, entries_max: int = 10_000
    ) -> None:
        """first_s, longest_s: for how long a key is avoided, at first and at most.

        free: how many failures in a row have no effect.
        """
        self.first_s = first_s
        self._longest_s = longest_s
        self._free = free
        self._entries_max = entries_max
        self._failed: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Failures {len(self._failed)}>"

    def __len__(self) -> int:
        return len(self._failed)

    def note(self, key: Hashable, now_s: float) -> None:
        """Record one more failure."""
        times = self.times(key, now_s) + 1
        rounds = times - self._free
        # The exponent is bounded, as 2.0 ** 1024 raises OverflowError.
        held_s = min(self.first_s * 2.0 ** min(rounds - 1, 30), self._longest_s)
        # A free failure holds nothing back, but is kept: the next one has to count as a repetition.
        self._failed[key] = times, now_s + (held_s if rounds > 0 else 0.0)
        self._failed.move_to_end(key)
        if len(self._failed) > self._entries_max:
            self._failed.popitem(last=False)

    def times(self, key: Hashable, now_s: float) -> int:
        """Return how often a key has failed in a row."""
        found = self._failed.get(key)
        if found is None:
            return 0
        times, until_s = found
        # As long again as the longest hold: a key that fails at each trial must keep its count.
        if now_s >= until_s + self._longest_s:
            del self._failed[key]
            return 0
        return times

    def holds(self, key: Hashable, now_s: float) -> bool:
        """Whether a key is to be avoided now."""
        found = self._failed.get(key)
        return found is not None and now_s < found[1]

    def forget(self, key: Hashable) -> None:
        """Forget the failures of a key."""
        self._failed.pop(key, None)

    def forget_all(self) -> None:
        """Drop everything: the upstream may have changed."""
        self._failed.clear()
