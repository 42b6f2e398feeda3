"""Copies blobs from peers, which are asked in the name of replication.

A node that is asked so answers from what it holds itself: two nodes with the same hole do not ask
each other in circles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from federation.core import hops
from federation.core.digest import Digest
from federation.core.errors import (
    BlobNotFound,
    DigestMismatch,
    FederationError,
    SourceUnavailable,
)
from federation.core.provenance import Provenance, Source
from federation.core.store import LocalStore, Readable
from federation.upstream.bringing import batches
from federation.upstream.small_pulls import SMALL_PULL_BYTES

_PEER_S, _PEER_RATE_MIN = 60.0, 1024  # a peer may take so long for a blob, and its size / rate
_FAILURES_MAX = 3  # in a row; then a peer is asked for nothing more
_AS_PEER = hops.Hops(replicates=True)


class BlobHolder(Protocol):
    """A peer that may be asked for blobs now."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        ...

    @property
    def node_id(self) -> str:
        """Its node id; empty: it has told none."""
        ...

    @property
    def store(self) -> Readable:
        """Its blobs."""
        ...

    def sent_wrong_bytes(self, digest: Digest) -> None:
        """Count a blob that was not what its digest names."""
        ...


Holders = Callable[[], AbstractAsyncContextManager[Sequence[BlobHolder]]]


class PeerAnswer(NamedTuple):
    """How one peer answered."""

    name: str
    said: str  # why it did not send everything, for people
    is_silent: bool  # it did not answer, or failed again and again


class PeerCopies:
    """Copies missing blobs into a local store."""

    def __init__(self, local: LocalStore, holders: Holders) -> None:
        """holders: connects to the peers that may be asked now, for the length of a block."""
        self._local = local
        self._holders = holders

    def __repr__(self) -> str:
        return f"<PeerCopies to {self._local!r}>"

    async def bring(
        self, missing: Collection[Digest], *, without: Collection[str] = ()
    ) -> tuple[set[Digest], list[PeerAnswer]]:
        """Copy missing blobs, verified; return those that no peer sent, and what each peer said.

        without: names of peers that are not asked. Raises what the local store raises beyond
        refusing a blob.
        """
        left, answers = set(missing), list[PeerAnswer]()
        async with self._holders() as holders:
            with hops.serving(_AS_PEER):
                for holder in holders:
                    if left and holder.name not in without:
                        copying = _Copying(self._local, holder)
                        answers.append(await copying.bring(left))
                        left -= copying.came
        return left, answers


class _Copying:
    """Copies missing blobs from one peer."""

    def __init__(self, local: LocalStore, holder: BlobHolder) -> None:
        self._local = local
        self._holder = holder
        self._said = "does not hold it"
        self._failures = 0  # in a row
        self.came: set[Digest] = set()

    async def bring(self, missing: Collection[Digest]) -> PeerAnswer:
        name, store = self._holder.name, self._holder.store
        try:
            # Asked first: reads of what a peer lacks would each cost a round trip.
            held = set(missing) - await store.find_missing(missing)
        except SourceUnavailable as error:
            return PeerAnswer(name, error.reason, is_silent=True)
        small = [digest for digest in held if digest.size_bytes <= SMALL_PULL_BYTES]
        # Small ones first, since a large one may use up a peer's failures.
        parts = [*batches(small), *([each] for each in held.difference(small))]
        for part in parts:
            # A hanging peer would hold up all other lost blobs, for a minute with each part.
            if self._failures < _FAILURES_MAX:
                await self._try_part(part)
        return PeerAnswer(name, self._said, is_silent=self._failures >= _FAILURES_MAX)

    async def _try_part(self, part: Sequence[Digest]) -> None:
        """Copy blobs of one batch, or a single one of any size."""
        size_bytes = sum(digest.size_bytes for digest in part)
        try:
            # In proportion to the size, so that a slow link is not taken for a hanging peer.
            async with asyncio.timeout(_PEER_S + size_bytes / _PEER_RATE_MIN):
                if len(part) == 1:
                    await self._copy(part[0])
                else:
                    await self._copy_small(part)
        # It may have been evicted there since; the next peer may hold it.
        except BlobNotFound:
            return
        except DigestMismatch:
            self._holder.sent_wrong_bytes(part[0])
            self._said = "sent other bytes"
        except TimeoutError:
            self._said = "took too long"
            self._failures += 1
        except SourceUnavailable as error:
            self._said = str(error)
            self._failures += 1
        except FederationError as error:  # no room here
            self._said = str(error)
        else:
            self._failures = 0

    @property
    def _provenance(self) -> Provenance:
        """Where blobs come from, so that they are not offered back.

        Made anew for each write: a peer tells its node id with its first answer.
        """
        node_id = self._holder.node_id
        return Provenance(Source.UPSTREAM, (node_id,) if node_id else (), self._holder.name)

    async def _copy(self, digest: Digest) -> None:
        async with self._holder.store.open_read(digest) as chunks:
            await self._local.write(digest, chunks, provenance=self._provenance)
        self.came.add(digest)

    async def _copy_small(self, part: Sequence[Digest]) -> None:
        found = await self._holder.store.read_small(part)
        blobs = [
            (digest, data) for digest, data in zip(part, found, strict=True) if data is not None
        ]
        if len(blobs) < len(part):
            self._said = "did not send all that it holds"
        refused = await self._local.write_small(blobs, provenance=self._provenance)
        for (digest, _), error in zip(blobs, refused, strict=True):
            if error is None:
                self.came.add(digest)
            elif isinstance(error, DigestMismatch):
                self._holder.sent_wrong_bytes(digest)
                self._said = "sent other bytes"
            else:
                self._said = str(error)
