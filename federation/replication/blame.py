"""Whose fault a failure is, the object's or the peer's: parking the one, waiting for the other.

A machine without I/O. A peer that does not let us in refuses every object, and must lose none; a
single object that it will not have must not hold up the others. What tells them apart is whether
others are taken in between.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Hashable

from federation.remote.failures import FailureKind

DENIED_IN_A_ROW = 3  # different objects; then the peer does not let us in at all
REFUSED_IN_A_ROW = 20  # likewise; then it has something against all, such as our instance name
_TRACKED_MAX = 10_000
FORGOTTEN_MAX = 5  # times, others being kept in between, until a blob is parked

# How often one object fails in such a way, others being taken in between, until it is parked.
# What is missing here (silence, a broken connection) is never an object's fault.
_PATIENCE = {
    FailureKind.DENIED: 2,
    FailureKind.INTERNAL: 5,
    FailureKind.MALFORMED: 5,
    FailureKind.EXHAUSTED: 10,
}


class Fault(enum.Enum):
    """What to do about a failure."""

    OBJECT = "object"  # park it
    UNCLEAR = "unclear"  # try it again, alone
    PEER = "peer"  # leave the peer alone for a while


class FaultTracker:
    """Remembers what failed lately at one peer."""

    def __init__(self) -> None:
        self._taken = 0
        self._failures: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()
        self._denied: set[Hashable] = set()  # since something was taken
        self._refused: set[Hashable] = set()  # likewise

    def __repr__(self) -> str:
        return f"<FaultTracker {len(self._failures)} failing, {len(self._denied)} denied in a row>"

    def taken(self, *things: Hashable) -> None:
        """Note that the peer took objects."""
        if not things:
            return
        self._taken += len(things)
        self._denied.clear()
        self._refused.clear()
        if self._failures:
            for thing in things:
                self._failures.pop(thing, None)

    def failed(self, thing: Hashable, kind: FailureKind) -> Fault:
        """Note that the peer did not take an object, which was sent alone or failed by itself."""
        if kind is FailureKind.REFUSED:
            return self._refuses(thing)
        patience = _PATIENCE.get(kind)
        if patience is None:
            return Fault.PEER
        count, taken_then = self._failures.pop(thing, (0, -1))
        if self._taken > taken_then:
            count += 1  # else nothing was taken since: it says nothing about this one
        if count >= patience:
            return Fault.OBJECT
        self._failures[thing] = (count, self._taken)
        if len(self._failures) > _TRACKED_MAX:
            self._failures.popitem(last=False)
        if kind is not FailureKind.DENIED:
            return Fault.PEER
        self._denied.add(thing)
        return Fault.PEER if len(self._denied) >= DENIED_IN_A_ROW else Fault.UNCLEAR

    def _refuses(self, thing: Hashable) -> Fault:
        if thing not in self._refused and len(self._refused) >= REFUSED_IN_A_ROW:
            return Fault.PEER
        self._refused.add(thing)
        return Fault.OBJECT


class ForgottenBlobs:
    """Blobs that a peer took and does not hold when asked, while it keeps others."""

    def __init__(self) -> None:
        self._kept = 0
        self._forgotten: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<ForgottenBlobs {len(self._forgotten)}>"

    def kept(self, *things: Hashable) -> None:
        """Note that the peer holds what it took."""
        self._kept += len(things)
        if self._forgotten:
            for thing in things:
                self._forgotten.pop(thing, None)

    def forgot(self, thing: Hashable) -> Fault:
        """Note that it does not hold one. A peer that keeps nothing is at fault itself."""
        count, kept_then = self._forgotten.pop(thing, (0, -1))
        if self._kept > kept_then:
            count += 1
        if count >= FORGOTTEN_MAX:
            return Fault.OBJECT
        self._forgotten[thing] = (count, self._kept)
        if len(self._forgotten) > _TRACKED_MAX:
            self._forgotten.popitem(last=False)
        return Fault.UNCLEAR
