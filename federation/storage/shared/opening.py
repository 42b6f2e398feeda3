"""Opens the parts of a node of a shared site: catalogue, bucket, the settings of its cache."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from federation.config.model import ScrubConfig, StorageConfig
from federation.config.storage import ObjectsConfig
from federation.core.clock import Clock, SystemClock
from federation.core.errors import SourceUnavailable, StorageRefused
from federation.observability.metrics import Metrics
from federation.storage.shared.admin.joining import ObjectReader, SitePlace
from federation.storage.shared.admin.operations import SiteOperations
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue, open_catalogue
from federation.storage.shared.credentials import read_key
from federation.storage.shared.objects import ObjectBucket
from federation.storage.shared.parts import VerifiedObjects

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
