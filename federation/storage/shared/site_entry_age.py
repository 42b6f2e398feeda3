"""What of received entries has expired by the rules of this node of a site: see entry_age.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from federation.core.errors import SourceUnavailable, StorageFailed
from federation.core.index import Entry, EntryKey
from federation.core.provenance import Provenance
from federation.storage.entry_age import expired_on_arrival, unwanted_of
from federation.storage.pinning import StoredPins
from federation.storage.shared.site_context import SiteContext


async def without_expired_at_site(
    core: SiteContext, pins: StoredPins[EntryKey], received: Sequence[Entry], origin: Provenance
) -> Sequence[Entry]:
    """Return what may be stored of entries that were received: see without_expired.

    Raises StorageFailed.
    """
    leased_ms = core.catalogue.settings.evictable_ms
    expired = expired_on_arrival(received, origin, core.settings.expire_after, leased_ms)
    if not expired:
        return received
    try:
        heads = await core.catalogue.index.heads([entry.key for entry in expired])
        live = await pins.records.live()
    except SourceUnavailable as error:
        raise StorageFailed(str(error)) from error
    held = {head.key for head in heads if head is not None}
    unwanted = await asyncio.to_thread(unwanted_of, expired, held, live)
    return [entry for entry in received if entry.key not in unwanted]
