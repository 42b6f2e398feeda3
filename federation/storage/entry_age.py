"""For how long the entries of an instance stay unused (storage.expire-after)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import apsw

from federation.core.index import Entry
from federation.core.provenance import Provenance, Source
from federation.storage.catalogue import entries as catalogue
from federation.storage.catalogue import pins
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.context import StorageContext


def max_unused_ms(core: StorageContext, instance: str) -> int | None:
    """Return after which time without use (ms) entries of an instance go; None: no rule says so.

    Never within a lease, whatever the configuration says: peers and clients rely on that.
    """
    age_s = core.settings.expire_after.get(instance)
    return None if age_s is None else max(int(age_s * 1000), core.timing.cutoff_age_ms)


async def without_expired(
    core: StorageContext, received: Sequence[Entry], origin: Provenance
) -> Sequence[Entry]:
    """Return what may be stored of entries that were received.

    What a peer sends is left out if it has expired by this node's own rule: no client used it there
    for so long. A peer without that rule would bring it back at every check. It is taken if a pin
    matches it, or as a value for a name that is held. Raises SourceUnavailable.
    """
    expired = expired_on_arrival(received, origin, lambda name: max_unused_ms(core, name))
    if not expired:
        return received
    wall_s = core.clock.wall_s()
    try:
        wanted = await core.pool.query(_wanted, expired, wall_s)
    except UNREADABLE as error:
        raise core.catalogue_unreadable(error) from error
    return [entry for entry in received if entry not in expired or entry in wanted]


def expired_on_arrival(
    received: Sequence[Entry], origin: Provenance, max_unused: Callable[[str], int | None]
) -> list[Entry]:
    """Return those of a peer's entries that no client has used there for too long.

    max_unused: see max_unused_ms; called with the name of an instance.
    """
    if origin.source is not Source.PEER or not origin.unused_s:
        return []
    ages = ((entry, max_unused(entry.key.instance)) for entry in received)
    return [
        entry for entry, most_ms in ages if most_ms is not None and origin.unused_s * 1000 > most_ms
    ]


def _wanted(connection: apsw.Connection, found: Sequence[Entry], wall_s: float) -> list[Entry]:
    matchers = [row.pin.target.matcher() for row in pins.live(connection, wall_s)]
    return [
        entry
        for entry in found
        if catalogue.has_any(connection, [entry.key])
        or any(matches(entry.key, entry.label) for matches in matchers)
    ]
