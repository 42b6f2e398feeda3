"""Operations on a shared site: see federation/storage/contract.py."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from federation.config.types import share_of
from federation.core.clock import SystemClock
from federation.core.errors import StorageRefused
from federation.core.index import EntryKey
from federation.core.pins import ClosureWalk, Pin, PinReport, PinsReport, PinTarget
from federation.core.purges import Purgeable, PurgeOutcome
from federation.core.replication_log import Parked
from federation.storage.admin.operations import DirectoryOperations
from federation.storage.contract import Explainer, Operations, Progress
from federation.storage.pin_walk import PinWalker
from federation.storage.pinning import StoredPins
from federation.storage.reports import (
    BackupReport,
    CollectReport,
    EntryMatch,
    EntrySelection,
    KnownPeer,
    NewId,
    RebuildReport,
    VerifyReport,
)
from federation.storage.shared.admin.joining import SitePlace, ask
from federation.storage.shared.admin.site_collect import collect_site
from federation.storage.shared.admin.site_entries import find_site_entries
from federation.storage.shared.admin.site_explain import explaining_site
from federation.storage.shared.admin.site_id import new_site_id
from federation.storage.shared.admin.site_peers import known_peers
from federation.storage.shared.admin.site_reader import SiteReader
from federation.storage.shared.admin.site_summary import site_summary
from federation.storage.shared.admin.site_verify import verify_site
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from federation.storage.shared.site_pins import site_pins

_BY_THEIR_OWN = (
    "database and bucket of a shared site are backed up by their own means: the database first, "
    "then the bucket, or versions of its objects"
)


class SiteOperations(Operations):
    """The operations on a site of the shared engine, from any of its nodes' machines."""

    def __init__(self, place: SitePlace) -> None:
        self._place = place
        self._clock = SystemClock()
        self._here = DirectoryOperations(place.data_dir, place.settings)

    def __repr__(self) -> str:
        return f"<SiteOperations from {self._place.data_dir}>"

    def processes(self) -> list[dict[str, Any]]:
        """See Operations: those of this machine, which share this node's cache."""
        return self._here.processes()

    def send_signal(self, process: Mapping[str, Any], number: signal.Signals) -> str | None:
        """See Operations."""
        return self._here.send_signal(process, number)

    def summary(self) -> dict[str, Any]:
        """See Operations."""
        quota_bytes, pinned_bytes = self._place.settings.quota or 0, self._max_pinned()
        facts = ask(
            self._place, lambda site: site_summary(site, self._clock, quota_bytes, pinned_bytes)
        )
        here = {"data-dir": str(self._place.data_dir), "processes": self.processes()}
        return {**here, **facts}

    def explaining(self) -> AbstractContextManager[Explainer]:
        """See Operations."""
        return explaining_site(self._place)

    def verify(self, progress: Progress, *, repair: bool) -> VerifyReport:
        """See Operations."""

        async def work(catalogue: SiteCatalogue) -> VerifyReport:
            async with self._place.open_objects() as objects:
                return await verify_site(catalogue, objects, progress, repair=repair)

        return ask(self._place, work)

    def collect(self, progress: Progress, *, target_bytes: int | None) -> CollectReport:
        """See Operations."""
        settings = self._place.settings
        return ask(self._place, lambda site: collect_site(site, settings, progress, target_bytes))

    def rebuild(self, progress: Progress) -> RebuildReport:
        """See Operations. Raises StorageRefused always."""
        del progress
        raise StorageRefused(
            "a shared site's catalogue is not made from its objects: restore the database from a "
            "standby or a backup; the nodes compare it with the bucket then"
        )

    def backup(self, to: Path, progress: Progress) -> BackupReport:
        """See Operations. Raises StorageRefused always."""
        del to, progress
        raise StorageRefused(_BY_THEIR_OWN)

    def restore(self, backed_up: Path, progress: Progress) -> BackupReport:
        """See Operations. Raises StorageRefused always."""
        del backed_up, progress
        raise StorageRefused(_BY_THEIR_OWN)

    def new_id(self) -> NewId:
        """See Operations. The bucket is that of the copy."""

        async def work(catalogue: SiteCatalogue) -> NewId:
            async with self._place.open_objects() as objects:
                return await new_site_id(catalogue, objects)

        return ask(self._place, work)

    def peers(self) -> list[KnownPeer]:
        """See Operations."""
        return ask(self._place, lambda site: known_peers(site, self._clock))

    def parked(self, peer: str | None, limit: int) -> Sequence[Parked]:
        """See Operations."""
        return ask(self._place, lambda site: site.peers.parked(peer, limit))

    def retry_parked(self, peer: str | None) -> int:
        """See Operations."""
        return ask(self._place, lambda site: site.peers.ask_retry(peer))

    def reconcile(self, peer: str) -> None:
        """See Operations."""
        ask(self._place, lambda site: site.peers.want(peer))

    def drop_peer(self, peer: str) -> None:
        """See Operations."""
        ask(self._place, lambda site: site.peers.drop(peer))

    def find_entries(self, wanted: EntrySelection) -> Iterator[EntryMatch]:
        """See Operations."""
        return find_site_entries(self._place, wanted)

    def purge(self, things: Sequence[tuple[Purgeable, str]], by: str) -> list[PurgeOutcome]:
        """See Operations. Nodes learn of it within a second, and clear their caches."""
        return ask(self._place, lambda site: site.purges.purge(things, by))

    def pin(self, wanted: Pin, walk: ClosureWalk) -> PinReport:
        """See Operations."""

        async def work(catalogue: SiteCatalogue) -> PinReport:
            pins = self._pins(catalogue)
            async with self._place.open_objects() as objects:
                walker = PinWalker(pins.keepings, SiteReader(catalogue, objects), walk)
                return await pins.pin(wanted, walker)

        return ask(self._place, work)

    def unpin(self, targets: Sequence[PinTarget], by: str) -> list[Pin]:
        """See Operations."""
        return ask(self._place, lambda site: self._pins(site).unpin(targets, by))

    def pins(self) -> PinsReport:
        """See Operations."""
        return ask(self._place, lambda site: self._pins(site).report())

    def _pins(self, catalogue: SiteCatalogue) -> StoredPins[EntryKey]:
        return site_pins(catalogue, self._clock, self._max_pinned)

    def _max_pinned(self) -> int:
        settings = self._place.settings
        return share_of(settings.pins_max, settings.quota or 0)

    def offline_since_s(self) -> int | None:
        """See Operations."""

        async def work(catalogue: SiteCatalogue) -> int | None:
            return catalogue.watch.offline_since_s

        return ask(self._place, work)

    def turn_offline(self, *, on: bool) -> None:
        """See Operations."""
        since_s = int(self._clock.wall_s()) if on else None
        ask(self._place, lambda site: site.watch.turn_offline(since_s))
