"""Keeps what pins of a site name, on the node that leads the upkeep."""

from __future__ import annotations

from federation.core.errors import FederationError, LeadLost, SourceUnavailable
from federation.core.index import EntryKey
from federation.core.pins import ClosureWalk, FetchBlobs
from federation.core.store import Readable
from federation.storage.pin_walk import PinWalker
from federation.storage.shared.catalogue.pin_records import PinWork
from federation.storage.shared.catalogue.rows import Lead
from federation.storage.shared.site_context import SiteContext
from federation.storage.shared.site_pins import site_pins
from federation.storage.upkeep.pin_keeper import PinKeeper


class SitePinKeeping:
    """See storage/upkeep/pin_keeper.py. Another node that takes the lead goes on where it ended."""

    def __init__(self, core: SiteContext) -> None:
        self._connections = core.catalogue.connections
        self._work = PinWork()
        pins = site_pins(core.catalogue, core.clock, core.max_pinned_bytes, self._work)
        self._keepings = pins.keepings
        self._keeper: PinKeeper[EntryKey] = PinKeeper(pins.records, pins.keepings, core.clock)

    def __repr__(self) -> str:
        return f"<SitePinKeeping {self._keeper!r}>"

    def walk_with(self, store: Readable, walk: ClosureWalk, fetch: FetchBlobs | None) -> None:
        """Say what walks through closures, and what brings blobs that are missing."""
        self._keeper.walker = PinWalker(self._keepings, store, walk, fetch)

    async def step(self, lead: Lead) -> None:
        """Do all that is due now. Raises LeadLost, SourceUnavailable.

        What a crash of the database may have undone is done again in the next step.
        """
        (life,) = await self._connections.ask_one("SELECT federation_incarnation()")
        self._work.lead, self._work.life = lead, life
        try:
            await self._keeper.step()
        except (LeadLost, SourceUnavailable):
            raise
        except FederationError as error:
            self._keeper.complain(error)
