"""Pins of a shared site: federation.core.pins.Pins over its database."""

from __future__ import annotations

from collections.abc import Callable

from federation.core.clock import Clock
from federation.core.index import EntryKey
from federation.storage.pinning import StoredPins
from federation.storage.shared.catalogue.keepings import SiteKeepings
from federation.storage.shared.catalogue.pin_records import PinWork, SitePinRecords
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue


def site_pins(
    catalogue: SiteCatalogue,
    clock: Clock,
    max_bytes: Callable[[], int],
    work: PinWork | None = None,
) -> StoredPins[EntryKey]:
    """Return the pins of a site. max_bytes: how many bytes of the quota they may keep now.

    work: of the process that keeps what comes later; None: it is another one.
    """
    work = work or PinWork()
    connections = catalogue.connections
    return StoredPins(
        SitePinRecords(connections, catalogue.settings, clock, work),
        SiteKeepings(connections, catalogue.index, max_bytes, work),
        clock,
    )
