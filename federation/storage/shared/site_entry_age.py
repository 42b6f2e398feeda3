"""For how long the entries of an instance of a site stay unused (storage.expire-after)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from federation.core.errors import SourceUnavailable, StorageFailed
from federation.core.index import Entry, EntryKey
from federation.core.provenance import Provenance
from federation.storage.entry_age import expired_on_arrival
from federation.storage.pinning import StoredPins
from federation.storage.shared.site_context import SiteContext


def max_unused_at_site_ms(core: SiteContext, instance: str) -> int | None:
    """Return after which time without use (ms) entries of an instance go; None: no rule says so.

    Never within a lease, whatever the configuration says: peers and clients rely on that.
    """
    age_s = core.settings.expire_after.get(instance)
    return None if age_s is None else max(int(age_s * 1000), core.catalogue.settings.evictable_ms)


async def without_expired_at_site(
    core: SiteContext, pins: StoredPins[EntryKey], received: Sequence[Entry], origin: Provenance
) -> Sequence[Entry]:
    """Return what may be stored of entries that were received: see storage/entry_age.py.

    Raises StorageFailed.
    """
    expired = expired_on_arrival(received, origin, partial(max_unused_at_site_ms, core))
    if not expired:
        return received
    try:
        heads = await core.catalogue.index.heads([entry.key for entry in expired])
        live = await pins.records.live()
    except SourceUnavailable as error:
        raise StorageFailed(str(error)) from error
    matchers = [row.pin.target.matcher() for row in live]
    dropped = [
        entry
        for entry, head in zip(expired, heads, strict=True)
        if head is None and not any(matches(entry.key, entry.label) for matches in matchers)
    ]
    return [entry for entry in received if entry not in dropped]
