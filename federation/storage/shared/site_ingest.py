"""Receives one blob of a shared site: into the spool, and from there to the bucket.

The spool is an ingest of the node's cache: it hashes, bounds and checks what comes, can be read
while it grows, and becomes a blob of the cache at the end. Small blobs go into the catalogue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from federation.core.digest import Digest
from federation.core.errors import (
    FederationError,
    StorageFailed,
    StorageFull,
)
from federation.core.provenance import Provenance, Source
from federation.core.store import Growing, Ingest, Piece
from federation.storage.ingest_steps import commit_whole
from federation.storage.shared.catalogue.rows import Insertion, NewBlob
from federation.storage.shared.part_hashes import PartHasher
from federation.storage.shared.part_sender import PartSender
from federation.storage.shared.site_context import SiteContext

_log = structlog.get_logger(__name__)
# The sweep deletes objects without a row that are older than two days. An upload that takes longer
# than a day is refused its row, so that no slow upload is hit. The wall clock counts, too: while a
# machine is suspended the other one stands still, and the sweep goes on elsewhere.
_LONGEST_S = 86_400.0


class SiteIngest:
    """See federation.core.store.Ingest.

    append and commit also raise SourceUnavailable: the bucket or the catalogue is away, and nothing
    is visible. StorageFailed by commit: it is not known whether the blob was stored.
    """

    def __init__(
        self,
        core: SiteContext,
        spool: Ingest,
        hasher: PartHasher,
        provenance: Provenance,
        *,
        is_sized: bool,
    ) -> None:
        """hasher: takes what the spool is given.

        is_sized: the digest is known already. Otherwise the parts are sent at the end.
        """
        self.provenance = provenance
        self._core = core
        self._spool = spool
        self._hasher = hasher
        self._small: bytearray | None = bytearray()
        self._is_sized = is_sized
        self._sender: PartSender | None = None
        self._begun_s = core.clock.monotonic_s()
        self._begun_wall_s = core.clock.wall_s()
        self._committing = False
        self._ended = False

    def __repr__(self) -> str:
        return f"<SiteIngest {self._spool!r}>"

    @property
    def digest(self) -> Digest:
        """See Ingest."""
        return self._spool.digest

    @property
    def received_bytes(self) -> int:
        """See Ingest."""
        return self._spool.received_bytes

    async def append(self, data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
        """See Ingest."""
        await self._spool.append(data, on_hashed)
        if self._small is not None:
            self._small += data
            if len(self._small) > self._core.settings.inline_max:
                self._small = None
        if self._small is None and self._is_sized and not self._ended:
            await self._sending().came(self._spool.received_bytes)

    def _sending(self) -> PartSender:
        if self._sender is None:
            self._sender = PartSender(self._core, self.digest, self._spool)
        return self._sender

    async def open_growing(self) -> Growing:
        """See Ingest."""
        return await self._spool.open_growing()

    def verify(self) -> None:
        """See Ingest."""
        self._spool.verify()

    async def commit(self) -> bool:
        """See Ingest."""
        return await commit_whole(self, self._start_commit)

    def _start_commit(self) -> asyncio.Task[bool | FederationError]:
        self._committing = True
        return self._core.background.start(self._commit(), "commit")

    async def _commit(self) -> bool | FederationError:
        """Commit; see StartCommit."""
        is_settled = False
        try:
            blob = await self._sent()
            # From here on the catalogue has the blob, has put its object into `gone`, or does not
            # know: then the sweep finds out. It may not be deleted here any more.
            is_settled = True
            (outcome,) = await self._core.catalogue.blobs.insert([blob])
        except FederationError as error:
            await self._end(keeps_objects=is_settled)
            return error
        except BaseException:
            await self._end(keeps_objects=True)
            raise
        if outcome is Insertion.FULL:
            self._core.note_refusal()
            await self._end(keeps_objects=True)
            return StorageFull(f"the site has no room for {self.digest.size_bytes} bytes")
        self._core.background.start(self._keep(), "keep an upload in the cache")
        return outcome is Insertion.STORED

    async def _sent(self) -> NewBlob:
        """Bring the bytes where they stay. Raises SourceUnavailable, StorageFailed."""
        if self._small is not None:
            return NewBlob(self.digest, bytes(self._small), provenance=self.provenance)
        sender = self._sending()
        await sender.finish()
        if self._age_s() > _LONGEST_S:
            raise StorageFailed("the upload took more than a day; send it again")
        hashes = self._hasher.hashes()
        return NewBlob(self.digest, None, sender.upload.attempt, hashes, self.provenance)

    def _age_s(self) -> float:
        clock = self._core.clock
        return max(clock.monotonic_s() - self._begun_s, clock.wall_s() - self._begun_wall_s)

    async def _keep(self) -> None:
        """Make the spool a blob of the cache. Small blobs get there when they are read."""
        self._ended = True
        try:
            if self._small is None and await self._may_keep():
                await self._spool.commit()
        except FederationError as error:
            _log.warning("cache_write_failed", digest=str(self.digest), reason=str(error))
        finally:
            await self._spool.abort()

    async def _may_keep(self) -> bool:
        if not self._core.cache_takes(self.digest.size_bytes):
            return False
        if self.provenance.source is Source.CLIENT:
            return True
        return not await self._core.catalogue.purges.blobs_among([self.digest])  # it was let fall

    async def abort(self) -> None:
        """See Ingest. A running commit is not interrupted."""
        if not self._committing:
            self._committing = True
            await self._end(keeps_objects=False)

    async def _end(self, *, keeps_objects: bool) -> None:
        if self._ended:
            return
        self._ended = True
        if self._sender is not None and not keeps_objects:
            sender, self._sender = self._sender, None
            self._core.background.start(sender.drop(), "drop an upload")
        await self._spool.abort()
