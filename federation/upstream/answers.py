"""What one upstream said it has and has not, for a short time and a bounded number of keys.

Keys are digests of blobs, or keys of index entries. Without I/O. Forgotten as a whole when the
upstream goes down or comes back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable


class Answers:
    """Present and absent answers of one upstream with their times."""

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
        while len(self._until) > self._entries_max:
            self._until.popitem(last=False)

    def recall(self, key: Hashable, now_s: float) -> bool | None:
        """Return whether the upstream has it; None: not known any more, or never was."""
        answer = self._until.get(key)
        if answer is None:
            return None
        if now_s >= answer[1]:
            del self._until[key]
            return None
        return answer[0]

    def forget(self) -> None:
        """Drop everything: the upstream changed."""
        self._until.clear()


class Failures:
    """What failed again and again, and until when it is not counted on: each time for longer.

    Forgotten key by key when it went well, as a whole when the upstream goes down or comes back,
    and by itself when it has not failed for long.
    """

    def __init__(
        self, *, first_s: float, longest_s: float = 600.0, free: int = 0, entries_max: int = 10_000
    ) -> None:
        """free: how many failures in a row cost nothing."""
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
        """It failed once more."""
        times = self.times(key, now_s) + 1
        rounds = times - self._free
        held_s = min(self.first_s * 2.0 ** min(rounds - 1, 30), self._longest_s)
        self._failed[key] = times, now_s + (held_s if rounds > 0 else 0.0)
        self._failed.move_to_end(key)
        if len(self._failed) > self._entries_max:
            self._failed.popitem(last=False)

    def times(self, key: Hashable, now_s: float) -> int:
        """Return how often it failed in a row."""
        found = self._failed.get(key)
        if found is None:
            return 0
        times, until_s = found
        if now_s >= until_s + self._longest_s:
            del self._failed[key]
            return 0
        return times

    def holds(self, key: Hashable, now_s: float) -> bool:
        """Whether it is not to be counted on now."""
        found = self._failed.get(key)
        return found is not None and now_s < found[1]

    def forget(self, key: Hashable) -> None:
        """It went well, or is another now."""
        self._failed.pop(key, None)

    def forget_all(self) -> None:
        """Drop everything: the upstream changed."""
        self._failed.clear()
