"""Reads objects of the bucket in the background, and sets blobs aside whose objects are wrong.

Disks forget, and so do people with access to the bucket. A blob that is found missing here is
missing for everybody before a build relies on it. Each blob is compared with its digest, whatever
its row says about its parts.
"""

from __future__ import annotations

import os

import structlog

from federation.core.digest import HASH_BYTES
from federation.core.errors import SourceUnavailable
from federation.storage.catalogue.blobs import digest_of_key
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.parts import PartDamaged, fetch_whole
from federation.storage.shared.site_context import SiteContext

_log = structlog.get_logger(__name__)
_ROWS = 200
_IDLE_S = 60.0


class SiteScrub:
    """Goes through all blobs in the order of their keys, from any place on."""

    def __init__(self, core: SiteContext, after: bytes | None = None) -> None:
        """after: begin behind this key; None: anywhere, as leads may change often."""
        self._core = core
        self._after = os.urandom(1 + HASH_BYTES) if after is None else after

    async def step(self) -> None:
        """Verify the next objects at the configured rate; then the caller looks if it still leads.

        Raises SourceUnavailable.
        """
        rate = self._core.settings.scrub.rate
        rows = await self._core.catalogue.blobs.walk(self._after, _ROWS) if rate else ()
        for key, at in rows:
            self._after = key
            if at.attempt is not None:
                await self._verify(key, at, rate)
        if len(rows) < _ROWS:
            self._after = b""
            await self._core.clock.sleep(_IDLE_S)

    async def _verify(self, key: bytes, at: BlobAt, rate: int) -> None:
        digest = digest_of_key(key, at.size_bytes)
        try:
            async for data in fetch_whole(self._core.bucket, digest, at, self._core.fetching):
                self._core.metrics.bucket.scrubbed_bytes.inc(len(data))
                await self._core.clock.sleep(len(data) / rate)
        except PartDamaged as damage:
            await self._set_aside(key, at, str(damage))

    async def _set_aside(self, key: bytes, at: BlobAt, reason: str) -> None:
        digest = digest_of_key(key, at.size_bytes)
        try:
            await self._core.set_aside(digest, at, reason)
        except SourceUnavailable as error:  # replaced or evicted meanwhile, or too many at once
            _log.warning("blob_damaged", digest=str(digest), reason=reason, kept_because=str(error))
