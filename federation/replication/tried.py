"""What came of sending a batch of blobs once: which were taken, which are tried again, and how.

Decisions without I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from federation.core.digest import Digest
from federation.core.errors import DigestMismatch, FederationError
from federation.remote.failures import FailureKind, RemoteFailed
from federation.replication.blame import Fault, FaultTracker
from federation.replication.outcome import DAMAGED, SendOutcome, parked


class Tried(NamedTuple):
    """What came of a batch."""

    taken: list[Digest]
    again: list[Digest]  # not taken, for reasons that may pass
    ended: Sequence[tuple[Digest, SendOutcome]] = ()  # not taken, and never to be
    halve: bool = False  # it may be for a single blob that none was taken
    error: RemoteFailed | None = None  # why none was
    is_slow: bool = False  # a single blob, which takes longer than a call may: let it be a stream


def judge_batch(
    digests: Sequence[Digest], results: Sequence[FederationError | None], blame: FaultTracker
) -> Tried:
    """Decide about each blob of a batch. results: None for those taken, in the same order."""
    failed = {d: error for d, error in zip(digests, results, strict=True) if error}
    taken = [digest for digest in digests if digest not in failed]
    blame.taken(*taken)
    as_one = len(digests) > 1 and not taken  # it may be one that all of them suffer for
    again: list[Digest] = []
    ended: list[tuple[Digest, SendOutcome]] = []
    error = None
    for digest, failure in failed.items():
        if (outcome := _wrong_here(failure)) is not None:
            ended.append((digest, outcome))
            continue
        assert isinstance(failure, RemoteFailed)
        by_itself = not as_one or failure.kind is FailureKind.REFUSED
        if by_itself and blame.failed(digest, failure.kind) is Fault.OBJECT:
            ended.append((digest, parked(failure.reason)))
            continue
        again.append(digest)
        error = failure
    if taken or error is None:
        return Tried(taken, again, ended)
    if as_one and error.kind is FailureKind.DENIED:
        return Tried(taken, again, ended, halve=True)
    is_slow = len(digests) == 1 and error.kind is FailureKind.TIMEOUT
    return Tried(taken, again, ended, error=error, is_slow=is_slow)


def _wrong_here(error: FederationError) -> SendOutcome | None:
    """Return what is to become of a blob that was not even sent."""
    if isinstance(error, RemoteFailed):
        return None
    return DAMAGED if isinstance(error, DigestMismatch) else parked(str(error))
