"""The contract of the record of lost blobs: found damaged here, and missing since."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from federation.core.digest import Digest
from federation.core.provenance import Source


class LostBlob(NamedTuple):
    """A blob that was set aside as damaged and has not come back since."""

    digest: Digest
    source: Source  # who had sent the damaged copy
    found_at_s: float  # wall clock
    tries: int  # how often other servers were asked for it


class LostSlice(NamedTuple):
    """The lost blobs to ask for now, and how many are lost in all."""

    due: Sequence[LostBlob]
    lost: int


class Attempt(NamedTuple):
    """One try that did not bring a blob back."""

    digest: Digest
    again_at_s: float | None  # wall clock; None: it is forgotten
    reason: str  # what each server said, for people


class LostBlobs(Protocol):
    """The record of lost blobs of one storage. All methods are safe to call concurrently.

    The coroutines raise SourceUnavailable if the record cannot be read, StorageFailed or
    StorageFull if it cannot be written.
    """

    async def due(self, now_s: float, limit: int) -> LostSlice:
        """Return up to limit lost blobs that are due at now_s (wall clock), the longest due first.

        A blob is due as soon as it was set aside, and after a failed attempt when that says.
        """
        ...

    async def put_off(self, attempts: Sequence[Attempt]) -> None:
        """Record failed attempts in one durable step; each counts as a try.

        A blob that is not to be tried again is no longer recorded as lost.
        """
        ...

    async def note_back(self, digests: Collection[Digest]) -> dict[Digest, str]:
        """Record that blobs are held again; return the origin of each, where it has one.

        A blob whose damaged copy a client or a peer had sent does not stay one that only an
        upstream gave: it counts as received again, with the nodes that its new copy passed.
        """
        ...
