"""Absent blobs that are wanted whole, small and larger ones, each pulled once for all who want it.

Where a blob's pull is shared follows from its size alone: somebody may be reading as a stream what
somebody else has in a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from federation.core.digest import Digest
from federation.core.errors import BlobDamaged, BlobNotFound, FederationError
from federation.core.store import LocalStore
from federation.upstream.download import PullBroke
from federation.upstream.pulls import Pulls
from federation.upstream.small_pulls import SmallPulls
from federation.upstream.upstream import Upstream

SMALL_PULL_BYTES = 256 * 1024  # up to this a blob comes whole, in one answer with others

_ABSENT = (BlobNotFound, PullBroke, BlobDamaged)  # the silence of upstreams is a miss here


async def read_whole(
    local: LocalStore,
    pulls: Pulls,
    small: SmallPulls,
    digests: Sequence[Digest],
    only: Upstream | None = None,
    *,
    looked_at: int | None = None,
) -> dict[Digest, bytes]:
    """Return those that upstreams have; only: small ones from this upstream alone.

    looked_at: see SmallPulls.read. Larger ones that cannot be kept are answered all the same.
    """
    larger = [digest for digest in digests if digest.size_bytes > SMALL_PULL_BYTES]
    if not larger:
        return await small.read(digests, only, looked_at=looked_at)
    rest = [digest for digest in digests if digest.size_bytes <= SMALL_PULL_BYTES]
    came, found = await asyncio.gather(
        asyncio.gather(*(_bring(pulls, digest) for digest in larger)), small.read(rest, only)
    )
    kept = [digest for digest, error in zip(larger, came, strict=True) if error is None]
    for digest, data in zip(kept, await local.read_small(kept), strict=True):
        if data is not None:
            found[digest] = data
    refused = [d for d, error in zip(larger, came, strict=True) if not isinstance(error, _ABSENT)]
    if unkept := [digest for digest in refused if digest not in found]:
        found |= await small.read(unkept, only)
    return found


async def _bring(pulls: Pulls, digest: Digest) -> FederationError | None:
    """Bring it here; return why it is not."""
    try:
        await pulls.fetch(digest)
    except FederationError as error:
        return error
    return None
