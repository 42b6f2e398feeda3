"""Keeps a node's cache clear of what the site has purged.

A read from the cache asks nobody, so every process of every node follows the records of purges and
takes over those of blobs into the catalogue of its cache. That removes the blobs, ends reads of
them, and bars what a running fill would store. From the poll that tells of a record until that is
done the cache is not read.

How far the cache has come is in a file beside it. A node that comes back, or reaches the database
again, after records were forgotten compares its whole cache with the site.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import structlog

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import FederationError, StorageFailed, StorageRefused
from federation.core.uses import Use
from federation.storage.catalogue.blobs import keys_of
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from federation.storage.storage import Storage

_FILE = "site-purges.json"
_AT_ONCE = 500
_COMPARED_AT_ONCE = 500  # and dropped in one transaction
_LOOK_S = 0.25  # at what the watch has polled

_log = structlog.get_logger(__name__)


class CachePurges:
    """How far the cache has come with the records of the site. Used from the event loop."""

    def __init__(
        self, catalogue: SiteCatalogue, cache: Storage, data_dir: Path, clock: Clock
    ) -> None:
        self._catalogue = catalogue
        self._cache = cache
        self._clock = clock
        self._path = data_dir / _FILE
        self._epoch = ""  # of the change log: another one may number records anew
        self._told = 0
        self._bringing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<CachePurges up to {self._told}>"

    @property
    def is_current(self) -> bool:
        """Whether the cache is clear of everything that the last poll told of.

        Never once the database is asked no more: then nothing would tell of a purge.
        """
        return self._has_come_to_the_poll() and not self._catalogue.connections.are_given_up

    def _has_come_to_the_poll(self) -> bool:
        row = self._catalogue.watch.row
        return self._told >= row.purge_seq and self._epoch == row.log_epoch

    async def open(self) -> None:
        """Catch up with what was purged while this node was away. Raises StorageRefused."""
        try:
            self._epoch, self._told = await asyncio.to_thread(self._read)
            await self.bring()
        except FederationError as error:
            raise StorageRefused(f"the cache may have what was purged: {error}") from error

    async def run(self) -> None:
        """Follow the records, until cancelled. Raises as bring() does."""
        while True:
            await self.bring()
            while self._has_come_to_the_poll():
                await self._clock.sleep(_LOOK_S)

    async def bring(self) -> None:
        """Clear the cache of all that is recorded by now.

        Raises SourceUnavailable, StorageFailed, StorageFull.
        """
        async with self._bringing:
            epoch = self._catalogue.watch.log_epoch
            if epoch != self._epoch:
                self._epoch, self._told = epoch, 0
            await self._make_up_for_forgotten()
            while (page := await self._catalogue.purges.page(self._told, _AT_ONCE)).purges:
                blobs = [each for each in page.purges if isinstance(each.thing, Digest)]
                if blobs:
                    await self._cache.ledger.purges.apply(blobs)
                self._told = page.last
                await asyncio.to_thread(self._write, epoch, page.last)

    async def _make_up_for_forgotten(self) -> None:
        """Compare the cache with the site if records are gone that it has not come to."""
        forgotten = await self._catalogue.purges.forgotten()
        if self._told < forgotten:
            dropped = await self._compare()
            self._told = forgotten
            _log.warning(
                "cache_compared", dropped=dropped, reason="purges were forgotten meanwhile"
            )

    async def _compare(self) -> int:
        """Drop what the site does not hold, and return how many blobs that were."""
        position: str | None = None
        dropped = 0
        while True:
            page = await self._cache.ledger.blobs(position, _COMPARED_AT_ONCE)
            sizes = await self._catalogue.blobs.find(keys_of(page.digests), Use.PEEK)
            held = zip(page.digests, sizes, strict=True)
            gone = [digest for digest, size in held if size != digest.size_bytes]
            await self._cache.ledger.purges.drop(gone)
            dropped += len(gone)
            if page.next is None:
                return dropped
            position = page.next

    def _read(self) -> tuple[str, int]:
        """Return what the file says; a file that says nothing has everything told again."""
        try:
            facts = json.loads(self._path.read_text())
            return str(facts["log-epoch"]), int(facts["told"])
        except FileNotFoundError:
            return "", 0
        except OSError as error:
            raise StorageFailed(f"{self._path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("cache_purges_unread", path=str(self._path), reason=repr(error))
            return "", 0

    def _write(self, epoch: str, told: int) -> None:
        """Replace the file. It need not survive a power cut: an older one has more told again."""
        temporary = self._path.with_suffix(f".{os.getpid()}")  # other processes write it, too
        try:
            temporary.write_text(json.dumps({"log-epoch": epoch, "told": told}))
            temporary.replace(self._path)
        except OSError as error:
            raise StorageFailed(f"{self._path}: {error.strerror}") from error
