"""Opens the parts of a node of a shared site: catalogue, bucket, cache."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import structlog

from federation.config.model import LimitsConfig, ScrubConfig, StorageConfig
from federation.config.storage import ObjectsConfig
from federation.core.clock import Clock, SystemClock
from federation.core.errors import SourceUnavailable, StorageRefused
from federation.observability.metrics import Metrics
from federation.storage.shared.admin.joining import ObjectReader, SitePlace
from federation.storage.shared.admin.operations import SiteOperations
from federation.storage.shared.bucket_rules import refuse_expiry
from federation.storage.shared.cache_purges import CachePurges
from federation.storage.shared.cached_uses import CachedUses
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue, open_catalogue
from federation.storage.shared.credentials import read_key
from federation.storage.shared.naming import PART_BYTES
from federation.storage.shared.objects import ObjectBucket
from federation.storage.shared.parts import VerifiedObjects
from federation.storage.shared.site_context import SiteContext
from federation.storage.shared.site_marker import SiteMarker
from federation.storage.storage import Storage

_log = structlog.get_logger(__name__)
_PARTS_MIN = 4
_CACHE_LEASE_S = 30.0  # what a reader has open stays readable anyway
_CACHE_HIGH, _CACHE_LOW = 0.9, 0.85  # uploads need room, too: SiteContext.cache_takes
_CACHE_LOG_ROWS = 1000  # nobody reads the change log of a cache
_CACHE_DRIFT_S = 366 * 86400.0  # records of purges were checked when the site took them over


def cache_settings(settings: StorageConfig) -> StorageConfig:
    """Return the settings of the embedded storage that is a node's cache."""
    return settings.model_copy(
        update={
            "engine": "embedded",
            "catalogue": None,
            "objects": None,
            "cache": None,
            "quota": settings.cache,
            "lease": _CACHE_LEASE_S,
            "log_max_rows": _CACHE_LOG_ROWS,
            "clock_drift": _CACHE_DRIFT_S,
            "scrub": ScrubConfig(rate=0),  # what is read is verified; the rest may be lost
            "high_watermark": _CACHE_HIGH,
            "low_watermark": _CACHE_LOW,
        }
    )


def open_bucket(settings: ObjectsConfig, clock: Clock, metrics: Metrics) -> ObjectBucket:
    """Return a client of the site's bucket, which is not asked yet. Raises StorageRefused."""
    key = None if settings.credentials is None else read_key(settings.credentials)
    return ObjectBucket(settings, key, clock, metrics.bucket, random.SystemRandom())


async def open_site_catalogue(
    settings: StorageConfig, clock: Clock, metrics: Metrics
) -> SiteCatalogue:
    """Open the catalogue of a site, whose tables are made if there are none.

    Raises StorageRefused.
    """
    try:
        catalogue = await open_catalogue(_facts(settings), clock, metrics.failing)
    except SourceUnavailable as error:
        raise StorageRefused(f"the catalogue of the site cannot be opened: {error}") from error
    catalogue.set_quota(settings.quota)
    return catalogue


async def open_core(
    data_dir: Path, settings: StorageConfig, limits: LimitsConfig, metrics: Metrics, clock: Clock
) -> SiteContext:
    """Open all parts of a node, making the site's tables if the database has none.

    A bucket that does not answer is no reason not to start: small blobs can be served.

    Raises StorageRefused.
    """
    assert settings.objects is not None
    bucket = open_bucket(settings.objects, clock, metrics)
    async with AsyncExitStack() as opened:
        catalogue = await open_site_catalogue(settings, clock, metrics)
        opened.push_async_callback(catalogue.close)
        marker = SiteMarker(bucket, catalogue, partial(refuse_expiry, settings.objects, clock))
        try:
            await marker.check()
        except SourceUnavailable as error:
            if not catalogue.watch.head():
                raise StorageRefused(f"a new site needs its bucket: {error}") from error
            _log.warning("bucket_unchecked", reason=str(error))
        cache = await Storage.open(data_dir, cache_settings(settings), limits, Metrics(), clock)
        opened.push_async_callback(cache.close)
        purged = CachePurges(catalogue, cache, data_dir, clock)
        await purged.open()
        opened.pop_all()
    parts = max(_PARTS_MIN, limits.buffer_memory // PART_BYTES // 4)
    return SiteContext(
        catalogue=catalogue,
        bucket=bucket,
        marker=marker,
        cache=cache,
        purged=purged,
        uses=CachedUses(catalogue, clock),
        settings=settings,
        clock=clock,
        metrics=metrics,
        sending=asyncio.Semaphore(parts),
        fetching=asyncio.Semaphore(parts),
        direct=asyncio.Semaphore(parts),
    )


def operations_on_site(data_dir: Path, settings: StorageConfig) -> SiteOperations:
    """Return the operations of commands on a site. Opens nothing yet."""

    @asynccontextmanager
    async def open_objects() -> AsyncIterator[ObjectReader]:
        assert settings.objects is not None
        yield VerifiedObjects(open_bucket(settings.objects, SystemClock(), Metrics()))

    return SiteOperations(SitePlace(data_dir, _facts(settings), settings, open_objects))


def _facts(settings: StorageConfig) -> CatalogueSettings:
    assert settings.catalogue is not None
    return CatalogueSettings(
        settings.catalogue,
        settings.lease,
        settings.clock_drift,
        connections_max=settings.connections,
    )
