"""For how long the entries of an instance stay unused (storage.expire-after)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import apsw

from federation.core.index import Entry, EntryKey
from federation.core.provenance import Provenance, Source
from federation.storage.catalogue import entries as catalogue
from federation.storage.catalogue import pins
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.context import StorageContext
from federation.storage.pin_tables import PinRow


def max_unused_ms(age_s: float, leased_ms: int) -> int:
    """Return after which time without use (ms) entries go that the rule lets stay for age_s.

    Never within a lease (leased_ms), whatever the configuration says: peers and clients rely on
    that.
    """
    return max(int(age_s * 1000), leased_ms)


async def without_expired(
    core: StorageContext, received: Sequence[Entry], origin: Provenance
) -> Sequence[Entry]:
    """Return what may be stored of entries that were received.

    What a peer sends is left out if it has expired by this node's own rule: no client used it there
    for so long. A peer without that rule would bring it back at every check. It is taken if a pin
    matches it, or as a value for a name that is held. Raises SourceUnavailable.
    """
    rules = core.settings.expire_after
    expired = expired_on_arrival(received, origin, rules, core.timing.cutoff_age_ms)
    if not expired:
        return received
    try:
        unwanted = await core.pool.query(_unwanted, expired, core.clock.wall_s())
    except UNREADABLE as error:
        raise core.catalogue_unreadable(error) from error
    return [entry for entry in received if entry.key not in unwanted]


def expired_on_arrival(
    received: Sequence[Entry], origin: Provenance, ages_s: Mapping[str, float], leased_ms: int
) -> list[Entry]:
    """Return those of a peer's entries that no client has used there for too long.

    ages_s: the rules, by instance. leased_ms: see max_unused_ms.
    """
    if origin.source is not Source.PEER or not origin.unused_s:
        return []
    ages = ((entry, ages_s.get(entry.key.instance)) for entry in received)
    return [
        entry
        for entry, age_s in ages
        if age_s is not None and origin.unused_s * 1000 > max_unused_ms(age_s, leased_ms)
    ]


def unwanted_of(
    expired: Sequence[Entry], held: Collection[EntryKey], live: Sequence[PinRow]
) -> set[EntryKey]:
    """Return the names of those that are neither held nor matched by a pin in force.

    Calls as many functions as there are pins for each: not for the event loop.
    """
    matchers = [row.pin.target.matcher() for row in live]
    return {
        key
        for key, label in ((entry.key, entry.label) for entry in expired)
        if key not in held and not any(matches(key, label) for matches in matchers)
    }


def _unwanted(
    connection: apsw.Connection, expired: Sequence[Entry], wall_s: float
) -> set[EntryKey]:
    held = {entry.key for entry in expired if catalogue.has_any(connection, [entry.key])}
    return unwanted_of(expired, held, pins.live(connection, wall_s))
