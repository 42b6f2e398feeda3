"""Objects that a peer confirmed a moment ago, so that it is not asked again at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from federation.core.clock import Clock

_FOR_S = 60.0  # far less than any cache keeps what it was just asked for
_MAX = 50_000

_T = TypeVar("_T", bound=Hashable)


class ConfirmedBlobs:
    """A bounded set whose members expire."""

    def __init__(self, clock: Clock, node_id: Callable[[], str]) -> None:
        """node_id: returns the node that answers now; answers of other nodes are dropped."""
        self._clock = clock
        self._node_id = node_id
        self._said_by = ""
        self._until_s: OrderedDict[Hashable, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<ConfirmedBlobs {len(self._until_s)} objects>"

    def __contains__(self, thing: Hashable) -> bool:
        return bool(self.among([thing]))

    def among(self, things: Iterable[_T]) -> set[_T]:
        """Return those that the peer confirmed."""
        self._forget_others()
        if not self._until_s:
            return set()
        now_s, until_s = self._clock.monotonic_s(), self._until_s
        return {thing for thing in things if thing in until_s and now_s < until_s[thing]}

    def add(self, *things: Hashable) -> None:
        """Record that the peer holds these now."""
        self._forget_others()
        until_s = self._clock.monotonic_s() + _FOR_S
        for thing in things:
            self._until_s[thing] = until_s
            # All live equally long, so in this order the first is the next to expire.
            self._until_s.move_to_end(thing)
        while len(self._until_s) > _MAX:
            self._until_s.popitem(last=False)

    def discard(self, thing: Hashable) -> None:
        """Forget one object."""
        self._until_s.pop(thing, None)

    def clear(self) -> None:
        """Forget all: another node may answer now."""
        self._until_s.clear()

    def _forget_others(self) -> None:
        if (node_id := self._node_id()) != self._said_by:
            self._until_s.clear()
            self._said_by = node_id
