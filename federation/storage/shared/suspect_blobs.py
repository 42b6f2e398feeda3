"""Ends the suspicion against a bucket once the blobs that raised it prove right, or are gone.

Each process has a suspicion of its own, as each reads for itself: see storage/breaker.py.
"""

from __future__ import annotations

import structlog

from federation.core.digest import Digest
from federation.core.errors import SourceUnavailable
from federation.core.uses import Use
from federation.storage.blob_files import Damage
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.parts import PartDamaged, fetch_whole
from federation.storage.shared.site_context import SiteContext
from federation.storage.verification import check_inline

_EVERY_S = 10.0

_log = structlog.get_logger(__name__)


class SuspectBlobs:
    """Looks again at the last blobs that were found damaged and not set aside."""

    def __init__(self, core: SiteContext) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<SuspectBlobs of {self._core.damage!r}>"

    async def run(self) -> None:
        """Look whenever the bucket is suspected, until cancelled."""
        while True:
            await self._core.clock.sleep(_EVERY_S)
            if self._core.damage.trouble:
                await self.judge()

    async def judge(self) -> bool:
        """Trust the bucket again if none of the blobs is damaged; return whether it is trusted."""
        damage = self._core.damage
        for digest, seq in damage.suspects():
            try:
                await self._verify(digest, seq)
            except (Damage, PartDamaged, SourceUnavailable) as error:
                _log.debug("bucket_still_suspected", digest=str(digest), reason=str(error))
                return False
        damage.close()
        _log.warning("bucket_trusted_again")
        return True

    async def _verify(self, digest: Digest, seq: int) -> None:
        """Read a blob, unless it was replaced or is gone.

        Raises Damage, PartDamaged, SourceUnavailable.
        """
        key = key_of(digest)
        found = await self._core.catalogue.blobs.look_up([key], Use.PEEK, with_bytes=True)
        at = found.get(key)
        if at is None or at.seq != seq:
            return
        if at.attempt is None:
            check_inline(digest, at.data or b"")
        else:
            async for _ in fetch_whole(self._core.bucket, digest, at, self._core.fetching):
                continue
