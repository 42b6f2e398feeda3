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
