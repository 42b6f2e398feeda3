"""The object that says whose bucket this is, and how far the catalogue had come.

A bucket that says nothing, or names another site, is not written to. The lead of the upkeep writes
the change log's end into it every ten seconds, and which row that is. A catalogue that is behind
that, or has another row there, is an older one that was put back: it may name objects that are
gone, and lack objects that are there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from federation.core.errors import SourceUnavailable, StorageRefused
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from federation.storage.shared.catalogue.site_watch import read_site
from federation.storage.shared.objects import MARKER, ObjectBucket

_log = structlog.get_logger(__name__)


class MarkerFacts(NamedTuple):
    """What the object says."""

    site: str
    log_epoch: str
    head: int
    row: str = ""  # LogReader.fingerprint(head); empty: not known
    is_checking: bool = False  # an older catalogue was put back, and not every object was looked at
    lease_s: float | None = None  # of the node that wrote this; None: it did not say

    def encode(self) -> bytes:
        """Return the object's bytes."""
        facts = {"site": self.site, "log-epoch": self.log_epoch, "head": self.head}
        more = {"row": self.row, "checking": self.is_checking, "lease-s": self.lease_s}
        return json.dumps(facts | more).encode()

    @classmethod
    def decode(cls, data: bytes) -> MarkerFacts:
        """Read the object. Raises StorageRefused: it is no such object."""
        try:
            facts = json.loads(data)
            return cls(
                str(facts["site"]),
                str(facts["log-epoch"]),
                int(facts["head"]),
                str(facts.get("row", "")),
                facts.get("checking") is True,
                lease_s if isinstance(lease_s := facts.get("lease-s"), int | float) else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StorageRefused(
                f"{MARKER} in the bucket was not written by a node: give the site a bucket or a "
                "prefix (storage.objects) of its own"
            ) from None


class SiteMarker:
    """The marker of one site. Until it was read once, nothing may be put into the bucket."""

    def __init__(
        self,
        bucket: ObjectBucket,
        catalogue: SiteCatalogue,
        check_rules: Callable[[], Awaitable[None]],
    ) -> None:
        """check_rules: raises StorageRefused if the bucket's own rules delete objects."""
        self._check_rules = check_rules
        self._checking = asyncio.Lock()
        self._bucket = bucket
        self._catalogue = catalogue
        self._is_checked = False
        self._last: MarkerFacts | None = None  # as this process has read or written it

    def __repr__(self) -> str:
        return f"<SiteMarker {'checked' if self._is_checked else 'unchecked'}>"

    async def check(self) -> None:
        """Read the marker and the bucket's rules, until that has worked once.

        Writes the marker where site and bucket are new. Raises SourceUnavailable; StorageRefused:
        this is not the bucket of this site, or it deletes objects by itself.
        """
        if self._is_checked:
            return
        async with self._checking:
            if not self._is_checked:
                await self._check()
                await self._check_rules()
                self._is_checked = True

    async def _check(self) -> None:
        found = await self._bucket.get_marker()
        if found is None:
            await self._begin()
        elif (named := MarkerFacts.decode(found)).site != self._catalogue.site_id:
            raise StorageRefused(
                f"the bucket belongs to the site {named.site}, and the catalogue to "
                f"{self._catalogue.site_id}: give each site a prefix of its own"
            )
        elif named.lease_s not in {None, self._catalogue.settings.lease_s}:
            _log.warning(
                "lease_differs",
                here_s=self._catalogue.settings.lease_s,
                site_s=named.lease_s,
                do="set storage.lease to one value at all nodes and restart them: each evicts what "
                "others have promised, after its own",
            )

    async def check_or_fail(self) -> None:
        """Do what check() does, for uploads. Raises only SourceUnavailable."""
        try:
            await self.check()
        except StorageRefused as error:
            raise SourceUnavailable("bucket", str(error)) from error

    async def read(self) -> MarkerFacts:
        """Return what the marker says. Raises SourceUnavailable, StorageRefused."""
        found = await self._bucket.get_marker()
        if found is None:
            raise SourceUnavailable("bucket", f"{MARKER} is gone")
        self._last = MarkerFacts.decode(found)
        return self._last

    async def is_ahead(self) -> bool:
        """Whether the catalogue lacks what it had when the marker was last read or written here.

        Another epoch: one from before an epoch was begun, or nobody has looked since it was.
        Another row: more was written since an older one was put back than that had lost.
        Raises SourceUnavailable.
        """
        facts = self._last or await self.read()
        # Asked anew: a lead that resigned just now has seen more than the last poll of this node.
        row = await read_site(self._catalogue.connections)
        if facts.log_epoch != row.log_epoch or facts.head > row.seq:
            return True
        found = await self._catalogue.log.fingerprint(facts.head) if facts.row else None
        return found is not None and found != facts.row

    async def write(self, *, is_checking: bool = False) -> None:
        """Write how far the catalogue has come; for the lead. Raises SourceUnavailable."""
        catalogue = self._catalogue
        row = await read_site(catalogue.connections)
        durable = await catalogue.flusher.flush()  # rows that a crash takes are no older catalogue
        last = await catalogue.log.fingerprint(durable.seq) or ""
        facts = MarkerFacts(
            catalogue.site_id,
            row.log_epoch,
            durable.seq,
            last,
            is_checking,
            catalogue.settings.lease_s,
        )
        await self._bucket.put(MARKER, facts.encode())
        self._last = facts

    async def _begin(self) -> None:
        if self._catalogue.watch.totals().blobs:
            raise StorageRefused(
                f"the catalogue has blobs, and the bucket has no {MARKER}: is it another bucket or "
                "prefix than before?"
            )
        await self.write()
