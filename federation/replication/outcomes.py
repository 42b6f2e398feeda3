"""What became of an object on its way to a peer, and what a failed attempt says about it.

Decisions without I/O. A peer that lets nobody in refuses every object, and no object may be lost by
that; a single object that a peer never takes must not hold up the others. Whether the peer takes
other objects in between tells the two apart: the object is parked, or the peer is waited for.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from federation.core.digest import Digest
from federation.core.errors import DigestMismatch, FederationError
from federation.remote.failures import FailureKind, RemoteFailed


class Fate(enum.Enum):
    """How sending an object ended."""

    PRESENT = "present"  # the peer held it already
    SENT = "sent"  # the peer took it and confirmed that it holds it
    SKIPPED = "skipped"  # a rule leaves it out, or it is gone from here
    PARKED = "parked"  # it cannot be sent, or the peer refuses it


class SendOutcome(NamedTuple):
    """How sending an object ended, and why.

    The reason is for people. Those of skipped objects are a closed set: they are labels of metrics.
    """

    fate: Fate
    reason: str = ""

    @property
    def is_there(self) -> bool:
        """Whether the peer holds it."""
        return self.fate in {Fate.PRESENT, Fate.SENT}


PRESENT = SendOutcome(Fate.PRESENT)
SENT = SendOutcome(Fate.SENT)


def skipped(reason: str) -> SendOutcome:
    """Return the outcome of an object that is skipped."""
    return SendOutcome(Fate.SKIPPED, reason)


def parked(reason: str) -> SendOutcome:
    """Return the outcome of an object that is parked."""
    return SendOutcome(Fate.PARKED, reason)


GONE = skipped("gone from here")
SUPERSEDED = skipped("superseded by a newer one")
DAMAGED = parked("damaged here")
FORGOTTEN = parked("the peer takes it and does not hold it when asked")
TOO_FAR = skipped("it passed as many nodes as can be written down")
UNKNOWN_FUNCTION = skipped("the peer does not know its digest function")


DENIED_IN_A_ROW = 3  # different objects; then the peer denies us everything
REFUSED_IN_A_ROW = 20  # different objects; then it refuses all, e.g. our instance name
_TRACKED_MAX = 10_000
FORGOTTEN_MAX = 5  # times, while others are kept, until a blob is parked

# How often one object fails in such a way, others being taken in between, until it is parked.
# Other kinds (silence, a broken connection) are never the fault of an object.
_PATIENCE = {
    FailureKind.DENIED: 2,
    FailureKind.INTERNAL: 5,
    FailureKind.MALFORMED: 5,
    FailureKind.EXHAUSTED: 10,
}


class Fault(enum.Enum):
    """What a failure is attributed to."""

    OBJECT = "object"  # park it
    UNCLEAR = "unclear"  # try it again, alone
    PEER = "peer"  # leave the peer alone for a while


class FaultTracker:
    """Recent failures at one peer, by object."""

    def __init__(self) -> None:
        self._taken = 0
        self._failures: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()
        self._denied: set[Hashable] = set()  # since something was taken
        self._refused: set[Hashable] = set()  # likewise

    def __repr__(self) -> str:
        return f"<FaultTracker {len(self._failures)} failing, {len(self._denied)} denied in a row>"

    def taken(self, *things: Hashable) -> None:
        """Record that the peer took objects."""
        if not things:
            return
        self._taken += len(things)
        # Whoever takes something does not deny or refuse everything.
        self._denied.clear()
        self._refused.clear()
        if self._failures:
            for thing in things:
                self._failures.pop(thing, None)

    def failed(self, thing: Hashable, kind: FailureKind) -> Fault:
        """Record the failure of one object; return whose fault it is."""
        if kind is FailureKind.REFUSED:
            return self._refuses(thing)
        patience = _PATIENCE.get(kind)
        if patience is None:
            return Fault.PEER
        # -1: the first failure counts, whether or not anything was ever taken.
        count, taken_then = self._failures.pop(thing, (0, -1))
        if self._taken > taken_then:
            count += 1  # otherwise nothing was taken since, and the peer may be at fault
        if count >= patience:
            return Fault.OBJECT
        self._failures[thing] = (count, self._taken)
        if len(self._failures) > _TRACKED_MAX:
            self._failures.popitem(last=False)
        # A denial may be about this object alone, such as its instance; other kinds close the gate.
        if kind is not FailureKind.DENIED:
            return Fault.PEER
        self._denied.add(thing)
        return Fault.PEER if len(self._denied) >= DENIED_IN_A_ROW else Fault.UNCLEAR

    def _refuses(self, thing: Hashable) -> Fault:
        # Those that were refused before stay at fault, or they would be waited for with the peer.
        if thing not in self._refused and len(self._refused) >= REFUSED_IN_A_ROW:
            return Fault.PEER
        self._refused.add(thing)
        return Fault.OBJECT


class ForgottenBlobs:
    """Blobs that a peer took and did not hold when asked, although it kept others."""

    def __init__(self) -> None:
        self._kept = 0
        self._forgotten: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<ForgottenBlobs {len(self._forgotten)}>"

    def kept(self, *things: Hashable) -> None:
        """Record that the peer holds what it took."""
        self._kept += len(things)
        if self._forgotten:
            for thing in things:
                self._forgotten.pop(thing, None)

    def forgot(self, thing: Hashable) -> Fault:
        """Record that it does not hold one. A peer that keeps nothing is itself at fault."""
        count, kept_then = self._forgotten.pop(thing, (0, -1))
        if self._kept > kept_then:
            count += 1
        if count >= FORGOTTEN_MAX:
            return Fault.OBJECT
        self._forgotten[thing] = (count, self._kept)
        if len(self._forgotten) > _TRACKED_MAX:
            self._forgotten.popitem(last=False)
        return Fault.UNCLEAR


class Tried(NamedTuple):
    """The result of sending a batch once."""

    taken: list[Digest]
    again: list[Digest]  # not taken, for reasons that may pass
    ended: Sequence[tuple[Digest, SendOutcome]] = ()  # not taken, and not to be sent again
    halve: bool = False  # a single blob may be why none was taken: send two halves
    error: RemoteFailed | None = None  # why none was taken
    is_slow: bool = False  # a single blob took longer than a call may: send it as a stream


def judge_batch(
    digests: Sequence[Digest], results: Sequence[FederationError | None], faults: FaultTracker
) -> Tried:
    """Decide about each blob of a batch. results: None for those taken, in the same order."""
    failed = {d: error for d, error in zip(digests, results, strict=True) if error}
    taken = [digest for digest in digests if digest not in failed]
    faults.taken(*taken)
    as_one = len(digests) > 1 and not taken  # one of them may have failed the whole batch
    again: list[Digest] = []
    ended: list[tuple[Digest, SendOutcome]] = []
    error = None
    for digest, failure in failed.items():
        if (outcome := _wrong_here(failure)) is not None:
            ended.append((digest, outcome))
            continue
        assert isinstance(failure, RemoteFailed)
        # A refusal does not pass, so sending these in another cut would change nothing.
        by_itself = not as_one or failure.kind is FailureKind.REFUSED
        if by_itself and faults.failed(digest, failure.kind) is Fault.OBJECT:
            ended.append((digest, parked(failure.reason)))
            continue
        again.append(digest)
        error = failure
    # The peer works where it took something; the others are only tried again.
    if taken or error is None:
        return Tried(taken, again, ended)
    if as_one and error.kind is FailureKind.DENIED:
        return Tried(taken, again, ended, halve=True)
    is_slow = len(digests) == 1 and error.kind is FailureKind.TIMEOUT
    return Tried(taken, again, ended, error=error, is_slow=is_slow)


def _wrong_here(error: FederationError) -> SendOutcome | None:
    """Return the outcome of a blob that failed before it was sent."""
    if isinstance(error, RemoteFailed):
        return None
    return DAMAGED if isinstance(error, DigestMismatch) else parked(str(error))
