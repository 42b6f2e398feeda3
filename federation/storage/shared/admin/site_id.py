"""Gives a site whose database was copied an id of its own."""

from __future__ import annotations

import asyncio
import uuid

from federation.core.errors import StorageRefused
from federation.storage.reports import NewId
from federation.storage.shared.admin.joining import ObjectReader
from federation.storage.shared.catalogue.leads import SILENT_S
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from federation.storage.shared.site_marker import MarkerFacts

_BEATS = "SELECT role, term, beat FROM lead WHERE node IS NOT NULL ORDER BY role"
_REPLACE = """
UPDATE site SET site_id = $1, log_epoch = $2 WHERE site_id = $3 RETURNING site_id
"""


async def new_site_id(catalogue: SiteCatalogue, objects: ObjectReader) -> NewId:
    """Replace the id, and begin a new epoch of the change log. Keeps all objects and peer records.

    objects: of the copy, which has no site.json yet. One is written: the first lead then looks for
    every object, as the copies of database and bucket may be of different moments.

    Raises StorageRefused: a node serves the site, which is seen within SILENT_S by its beat, or the
    bucket has a site.json, as that of the original has. Raises SourceUnavailable.
    """
    if await objects.get_marker() is not None:
        raise StorageRefused(
            "the bucket has a site.json already: copy the objects of the original, without its "
            "site.json, to a bucket or prefix of their own, and name that in storage.objects"
        )
    before = await catalogue.connections.ask(_BEATS)
    if before:
        await asyncio.sleep(SILENT_S)
        if await catalogue.connections.ask(_BEATS) != before:
            raise StorageRefused("nodes serve this site; stop them all first")
    found = NewId(catalogue.site_id, uuid.uuid4().hex)
    # Peers know the original's log under the old id: this one needs an epoch of its own.
    epoch = uuid.uuid4().hex
    await catalogue.connections.ask(_REPLACE, found.now, epoch, found.before)
    facts = MarkerFacts(found.now, epoch, catalogue.watch.head(), is_checking=True)
    await objects.put_marker(facts.encode())
    return found
