"""Opens the parts of a node of a shared site: catalogue, bucket, the settings of its cache."""

from __future__ import annotations

import random

from federation.config.model import ScrubConfig, StorageConfig
from federation.config.storage import ObjectsConfig
from federation.core.clock import Clock
from federation.core.errors import SourceUnavailable, StorageRefused
from federation.observability.metrics import Metrics
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue, open_catalogue
from federation.storage.shared.credentials import read_key
from federation.storage.shared.objects import ObjectBucket

_CACHE_LEASE_S = 30.0  # what a reader has open stays readable anyway
_CACHE_LOG_ROWS = 1000  # nobody reads the change log of a cache


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
            "scrub": ScrubConfig(rate=0),  # what is read is verified; the rest may be lost
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
    assert settings.catalogue is not None
    facts = CatalogueSettings(settings.catalogue, settings.lease, settings.clock_drift)
    try:
        catalogue = await open_catalogue(facts, clock, metrics.failing)
    except SourceUnavailable as error:
        raise StorageRefused(f"the catalogue of the site cannot be opened: {error}") from error
    catalogue.set_quota(settings.quota)
    return catalogue
