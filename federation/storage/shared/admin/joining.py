"""Opens a site's catalogue for a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from federation.config.storage import StorageConfig
from federation.core.clock import SystemClock
from federation.core.digest import Digest
from federation.core.errors import SourceUnavailable, StorageRefused
from federation.core.store import Chunks
from federation.core.tasks import FailingWork
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue, open_catalogue

_T = TypeVar("_T")

_CALL_S = 3600.0  # some count all rows, and whoever called waits for them
_CONNECTIONS_MAX = 2


class ObjectReader(Protocol):
    """Reads blobs of the bucket for a command. All methods raise SourceUnavailable."""

    def parts(self, digest: Digest, at: BlobAt) -> Chunks:
        """Yield a blob's bytes, each part verified. Raises BlobDamaged."""
        ...

    async def get_marker(self) -> bytes | None:
        """Return what site.json says; None: there is none."""
        ...

    async def put_marker(self, data: bytes) -> None:
        """Write site.json."""
        ...


@dataclass(frozen=True, slots=True)
class SitePlace:
    """Where a site is, as the configuration of this node says."""

    data_dir: Path  # of this node: its cache
    catalogue: CatalogueSettings
    settings: StorageConfig
    open_objects: Callable[[], AbstractAsyncContextManager[ObjectReader]]


async def join(place: SitePlace) -> SiteCatalogue:
    """Open the catalogue beside the nodes of the site. Raises StorageRefused: there is none."""
    patient = replace(place.catalogue, call_s=_CALL_S, connections_max=_CONNECTIONS_MAX)
    return await open_catalogue(patient, SystemClock(), FailingWork(), may_create=False)


def ask(place: SitePlace, work: Callable[[SiteCatalogue], Awaitable[_T]]) -> _T:
    """Run work on the catalogue, and wait for its end. Raises StorageRefused: no answer."""

    async def run() -> _T:
        catalogue = await join(place)
        try:
            return await work(catalogue)
        finally:
            await catalogue.close()

    try:
        return asyncio.run(run())
    except SourceUnavailable as error:
        raise StorageRefused(str(error)) from error
