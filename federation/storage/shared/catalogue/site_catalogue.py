"""The catalogue of a site in PostgreSQL: what all nodes of the site know in common.

Methods of its parts raise SourceUnavailable where the database cannot be asked, at once while it is
known to be away; those that write raise StorageFailed or StorageFull. All are safe to cancel: a
statement that has begun goes on to its end.
"""

from __future__ import annotations

import os
import random
import socket
from dataclasses import dataclass

from federation.core.clock import Clock
from federation.core.tasks import FailingWork
from federation.storage.shared.catalogue.acknowledged import SiteAcknowledgements
from federation.storage.shared.catalogue.blobs import SiteBlobs
from federation.storage.shared.catalogue.connections import SOURCE, DatabaseConnections
from federation.storage.shared.catalogue.entries import SiteIndex
from federation.storage.shared.catalogue.flusher import CommitFlusher
from federation.storage.shared.catalogue.insertions import Insertions
from federation.storage.shared.catalogue.lead_work import LeadWork
from federation.storage.shared.catalogue.leads import SiteLeads
from federation.storage.shared.catalogue.log_rows import LogReader
from federation.storage.shared.catalogue.lost_blobs import SiteLostBlobs
from federation.storage.shared.catalogue.opening import open_site
from federation.storage.shared.catalogue.peer_rows import SitePeers
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_purges import SitePurges
from federation.storage.shared.catalogue.site_watch import SiteWatch, read_site
from federation.storage.shared.catalogue.walks import SiteWalks


@dataclass(frozen=True, slots=True)
class SiteCatalogue:
    """The parts of an open catalogue; open_catalogue() makes one."""

    site_id: str  # by which other sites know this one
    settings: CatalogueSettings
    connections: DatabaseConnections
    flusher: CommitFlusher
    watch: SiteWatch
    leads: SiteLeads
    work: LeadWork
    insertions: Insertions
    blobs: SiteBlobs
    index: SiteIndex
    log: LogReader
    peers: SitePeers
    acknowledged: SiteAcknowledgements
    walks: SiteWalks
    lost: SiteLostBlobs
    purges: SitePurges

    def set_quota(self, quota_bytes: int | None) -> None:
        """Change the quota, None: no limit; it applies to what is inserted from now on."""
        self.insertions.quota_bytes = quota_bytes

    def health(self) -> tuple[bool, str]:
        """Return whether the database answers, and if not, why."""
        trouble = self.connections.trouble
        return not trouble, f"{SOURCE} is away: {trouble}" if trouble else ""

    async def close(self) -> None:
        """Leave all roles, end what is under way, and close the connections."""
        await self.leads.close()
        await self.watch.close()
        await self.acknowledged.close()
        await self.insertions.close()
        await self.flusher.close()
        await self.connections.close()


async def open_catalogue(
    settings: CatalogueSettings, clock: Clock, failing: FailingWork, *, may_create: bool = True
) -> SiteCatalogue:
    """Connect to the site's database.

    may_create: make the tables if there are none, and upgrade those of an older schema.

    Raises StorageRefused, SourceUnavailable.
    """
    connections = DatabaseConnections(
        settings.url, clock, settings.connections_max, settings.call_s
    )
    try:
        site_id = await open_site(connections, may_create=may_create)
        row = await read_site(connections)
    except BaseException:
        await connections.close()
        raise
    flusher = CommitFlusher(connections)
    watch = SiteWatch(connections, clock, row, random.SystemRandom(), upgrades=may_create)
    leads = SiteLeads(connections, watch, clock, f"{socket.gethostname()}:{os.getpid()}")
    insertions = Insertions(connections, flusher, watch, settings, clock)
    peers = SitePeers(connections)
    catalogue = SiteCatalogue(
        site_id=site_id,
        settings=settings,
        connections=connections,
        flusher=flusher,
        watch=watch,
        leads=leads,
        work=LeadWork(connections, settings),
        insertions=insertions,
        blobs=SiteBlobs(connections, flusher, insertions, settings, clock),
        index=SiteIndex(connections, flusher, watch, insertions, settings, clock, site_id),
        log=LogReader(connections, flusher),
        peers=peers,
        acknowledged=SiteAcknowledgements(connections, peers, watch, clock),
        walks=SiteWalks(connections),
        lost=SiteLostBlobs(connections, leads, clock),
        purges=SitePurges(connections, flusher, watch, settings, clock),
    )
    watch.start(failing)
    leads.start(failing)
    return catalogue
