"""What the ingests of both engines do alike: take whole blobs, and commit exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable

from federation.core.errors import DigestMismatch, FederationError
from federation.core.store import Ingest, Piece

# Commits in the background. Errors are returned, as the caller may be gone and never raise them.
StartCommit = Callable[[], "asyncio.Future[bool | FederationError]"]


async def take_all(ingest: Ingest, chunks: AsyncIterable[Piece]) -> bool:
    """Append these bytes and commit; nothing is kept if that fails. Raises as Store.write does."""
    try:
        async for chunk in chunks:
            await ingest.append(chunk)
        return await ingest.commit()
    finally:
        await ingest.abort()


async def commit_whole(ingest: Ingest, start: StartCommit) -> bool:
    """Commit what has come, if it is what the digest names; else abort. See Ingest.commit.

    The commit that start() begins goes on if the caller is cancelled, so the blob is stored or
    dropped as a whole.
    """
    try:
        ingest.verify()
        if ingest.received_bytes != ingest.digest.size_bytes:
            raise DigestMismatch(ingest.digest, f"{ingest.received_bytes} bytes were stored")
    except DigestMismatch:
        await ingest.abort()
        raise
    # Shielded, and started without a wait in between: from here on it ends by itself.
    outcome = await asyncio.shield(start())
    if isinstance(outcome, FederationError):
        raise outcome
    return outcome
