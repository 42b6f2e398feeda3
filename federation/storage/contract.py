"""The interfaces of a storage for the other rooms, independent of its engine.

A node serves from a NodeStorage; commands work on a storage through Operations, whether nodes serve
it or not. factory.py makes both; other rooms import nothing else from this room.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from federation.config.model import StorageConfig
from federation.core.digest import Digest, DigestFunction
from federation.core.index import Index
from federation.core.lost_blobs import LostBlobs
from federation.core.pins import ClosureWalk, FetchBlobs, Pin, PinReport, PinsReport, PinTarget
from federation.core.purges import Purge, Purgeable, PurgeOutcome
from federation.core.replication_log import Parked, ReplicationLog
from federation.core.sole_role import SoleRole
from federation.core.store import LocalStore, WatchesHeld

if TYPE_CHECKING:  # a serving process makes no reports
    from federation.storage.reports import (
        BackupReport,
        CollectReport,
        EntryMatch,
        EntrySelection,
        FoundEntry,
        KnownPeer,
        NewId,
        RebuildReport,
        VerifyReport,
    )

Progress = Callable[[int, int], None]  # called with: done, total (0: unknown)


class OfflineState(Protocol):
    """The offline switch of a storage, as a node that serves it sees it."""

    @property
    def is_on(self) -> bool:
        """Whether upstreams must not be asked, according to the last read."""
        ...

    def watch(self, watcher: Callable[[bool], None]) -> None:
        """Call watcher on the event loop with the state, now and after each change."""
        ...


class NodeLog(ReplicationLog, Protocol):
    """The change log of a storage, and how far peers have acknowledged it."""

    async def wait_acknowledged(
        self, seq: int, peers: Collection[str], needed: int, timeout_s: float
    ) -> bool:
        """Wait until `needed` of these peers have every row up to seq; False after timeout_s.

        Ignores what a rule holds back for a window. Raises SourceUnavailable.
        """
        ...


class NodeStorage(LocalStore, Index, WatchesHeld, Protocol):
    """An open storage.

    find_missing and find_missing_named may raise SourceUnavailable if they cannot tell: the answer
    "all are missing" would make every client upload everything.
    """

    @property
    def node_id(self) -> str:
        """The id by which other nodes know this site."""
        ...

    @property
    def ledger(self) -> NodeLog:
        """The change log of the objects accepted here."""
        ...

    @property
    def lost(self) -> LostBlobs:
        """The blobs that were found damaged here and are missing since."""
        ...

    @property
    def fetching(self) -> SoleRole:
        """The role of fetching what no client asks for: lost blobs, and what a schedule names."""
        ...

    @property
    def offline_switch(self) -> OfflineState:
        """See OfflineState."""
        ...

    @property
    def quota_bytes(self) -> int:
        """How many bytes may be held now."""
        ...

    def health(self) -> tuple[bool, str]:
        """Return whether everything works, and if not, what is wrong."""
        ...

    def apply_config(self, settings: StorageConfig) -> None:
        """Apply the settings that can change while the storage is open, such as the quota."""
        ...

    def keep_pins(self, walk: ClosureWalk, fetch: FetchBlobs | None) -> None:
        """Begin to keep what pins name from eviction, while this process leads the upkeep.

        walk: asks a store about all that an entry names. fetch: brings what is missing; None:
        nothing does.
        """
        ...

    def announce(self, **facts: Any) -> None:
        """Publish how to reach this process, for people, tools and commands."""
        ...

    async def close(self) -> None:
        """Write pending changes, end all threads and release the storage."""
        ...


class Explainer(Protocol):
    """Answers questions about single objects. Gives no lease and changes nothing; blocks.

    All methods raise StorageRefused if the catalogue cannot be read.
    """

    @property
    def node_id(self) -> str:
        """See NodeStorage."""
        ...

    @property
    def is_switched_offline(self) -> bool:
        """Whether the offline switch is on."""
        ...

    def with_hash(self, function: DigestFunction, raw_hash: bytes) -> Digest | None:
        """Return the digest of a blob that is or was held; None: its size is unknown."""
        ...

    def blob(self, digest: Digest) -> dict[str, Any]:
        """Return what is known of a blob; "here": whether a client is told that it is held."""
        ...

    def purges(self, digest: Digest | None = None, label: str = "") -> list[Purge]:
        """Return the records of a blob, or of the entries with a label: a URI, an action's digest.

        Such a name was purged, and perhaps pushed again since.
        """
        ...

    def action_results(self, action: Digest, instance: str | None) -> list[FoundEntry]:
        """Return the results of an action in one instance; instance None: in all."""
        ...

    def assets(self, uri: str, instance: str | None) -> list[FoundEntry]:
        """Return the assets of a URI with any qualifiers. Reads the whole index."""
        ...

    def missing(self, digests: Collection[Digest]) -> set[Digest]:
        """Return the digests that FindMissing would report as missing."""
        ...

    def read(self, digest: Digest) -> bytes | None:
        """Return a blob's verified bytes; None: it is missing or damaged."""
        ...


class Operations(Protocol):
    """What commands do to a storage. All methods block.

    All methods raise StorageRefused if there is no such storage, it cannot be read, or its engine
    does not support the operation; those that write also raise StorageFull and StorageFailed.
    """

    def processes(self) -> list[dict[str, Any]]:
        """Return what each process that serves the storage now has published (announce)."""
        ...

    def send_signal(self, process: Mapping[str, Any], number: signal.Signals) -> str | None:
        """Signal one of processes(); return why that was impossible, or None."""
        ...

    def summary(self) -> dict[str, Any]:
        """Return the facts that `federation status` shows, whatever else the engine knows.

        Of every engine: "node-id", "blobs", "entries", "bytes" (the sum of object sizes),
        "held-bytes" of "quota-bytes" (as the quota counts), "quarantine": {"blobs", "newest"},
        "healing": {"lost": how many damaged blobs have not come back}, and "peers":
        KnownPeer.as_dict of each.
        """
        ...

    def explaining(self) -> AbstractContextManager[Explainer]:
        """Open the storage for questions about single objects."""
        ...

    def verify(self, progress: Progress, *, repair: bool) -> VerifyReport:
        """Compare every blob with its digest, and check the catalogue.

        repair: quarantine damaged blobs. Safe while nodes serve the storage.
        """
        ...

    def collect(self, progress: Progress, *, target_bytes: int | None) -> CollectReport:
        """Evict until at most target_bytes are held (None: the low watermark of the quota)."""
        ...

    def rebuild(self, progress: Progress) -> RebuildReport:
        """Make a new catalogue from what is held, while no node serves the storage."""
        ...

    def backup(self, to: Path, progress: Progress) -> BackupReport:
        """Bring the backup in a folder up to date; safe while nodes serve the storage."""
        ...

    def restore(self, backed_up: Path, progress: Progress) -> BackupReport:
        """Copy a backup into this storage, which must hold nothing."""
        ...

    def new_id(self) -> NewId:
        """Give a copied storage an id of its own, while no node serves it."""
        ...

    def peers(self) -> list[KnownPeer]:
        """Return every peer that is known and was not dropped, sorted by name."""
        ...

    def parked(self, peer: str | None, limit: int) -> Sequence[Parked]:
        """Return up to limit parked objects, oldest first; peer None: of all peers."""
        ...

    def retry_parked(self, peer: str | None) -> int:
        """Request a retry of parked objects (peer None: of all peers); return their number."""
        ...

    def reconcile(self, peer: str) -> None:
        """Request a reconcile of a peer: compare what it holds, and send what it lacks."""
        ...

    def drop_peer(self, peer: str) -> None:
        """Forget a peer, and everything that is pinned or parked for it."""
        ...

    def find_entries(self, wanted: EntrySelection) -> Iterator[EntryMatch]:
        """Yield the index entries of a selection, in no order. May read the whole index."""
        ...

    def purge(self, things: Sequence[tuple[Purgeable, str]], by: str) -> list[PurgeOutcome]:
        """See federation.core.purges.Purges. Safe while nodes serve the storage."""
        ...

    def pin(self, wanted: Pin, walk: ClosureWalk) -> PinReport:
        """Keep what matches a target from eviction; return what that is. wanted: without a stamp.

        Of a target that is pinned already only date and note change. Safe while nodes serve the
        storage. Also raises InvalidRequest, and StorageFull if pins would take more than
        storage.pins-max: nothing has changed then.
        """
        ...

    def unpin(self, targets: Sequence[PinTarget], by: str) -> list[Pin]:
        """Remove the pins of these targets; return those that there were."""
        ...

    def pins(self) -> PinsReport:
        """Return all pins, and what they keep."""
        ...

    def offline_since_s(self) -> int | None:
        """Return when the offline switch was turned on (wall clock, s); None: it is off."""
        ...

    def turn_offline(self, *, on: bool) -> None:
        """Turn the offline switch for all processes, including those started later."""
        ...
