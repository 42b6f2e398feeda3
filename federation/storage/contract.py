"""What other rooms know of a storage, whatever engine keeps it.

NodeStorage is what a node serves from; Operations is what commands do to a storage, beside the
nodes that serve it or without one. factory.py makes both; nothing else of this room is imported
from outside.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from federation.config.model import StorageConfig
from federation.core.digest import Digest, DigestFunction
from federation.core.replication_log import Parked, ReplicationLog
from federation.core.store import Index, LocalStore
from federation.storage.reports import (
    CollectReport,
    FoundEntry,
    KnownPeer,
    NewId,
    RebuildReport,
    VerifyReport,
)

Progress = Callable[[int, int], None]  # done, total (0: not known)


class OfflineState(Protocol):
    """The offline switch of a storage, as a node that serves it follows it."""

    @property
    def is_on(self) -> bool:
        """Whether upstreams must not be asked, as last read."""
        ...

    def watch(self, watcher: Callable[[bool], None]) -> None:
        """Have this called on the event loop now, and whenever the switch is turned."""
        ...


class NodeLog(ReplicationLog, Protocol):
    """The change log, and how far peers have acknowledged it."""

    async def wait_acknowledged(
        self, seq: int, peers: Collection[str], needed: int, timeout_s: float
    ) -> bool:
        """Wait until so many of these peers have every row up to seq; False after timeout_s.

        What a rule holds back for a window is not waited for. Raises SourceUnavailable.
        """
        ...


class NodeStorage(LocalStore, Index, Protocol):
    """An open storage. find_missing and find_missing_named may raise SourceUnavailable.

    That is where it cannot tell, since "all are missing" would have every client upload everything.
    """

    @property
    def node_id(self) -> str:
        """How other nodes know the site that is served from here."""
        ...

    @property
    def ledger(self) -> NodeLog:
        """The change log of what is accepted here."""
        ...

    @property
    def offline_switch(self) -> OfflineState:
        """See OfflineState."""
        ...

    @property
    def quota_bytes(self) -> int:
        """The most that may be held now."""
        ...

    def health(self) -> tuple[bool, str]:
        """Return whether everything works, and what does not."""
        ...

    def apply_config(self, settings: StorageConfig) -> None:
        """Take what of these settings can change while it is open: the quota and other bounds."""
        ...

    def announce(self, **facts: Any) -> None:
        """Publish where this process can be reached, for people, tools and commands."""
        ...

    async def close(self) -> None:
        """Write what is gathered, end all threads, let go of the storage."""
        ...


class Explainer(Protocol):
    """Answers questions about single objects. It gives no lease and changes nothing; it blocks.

    All methods raise StorageRefused when the catalogue cannot be read.
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
        """Return the digest of a blob that is or was here; None where no size is known."""
        ...

    def blob(self, digest: Digest) -> dict[str, Any]:
        """Return what is known of a blob; here: whether a client would be told that it is."""
        ...

    def action_results(self, action: Digest, instance: str | None) -> list[FoundEntry]:
        """Return the results of an action in all instances, or just in one."""
        ...

    def assets(self, uri: str, instance: str | None) -> list[FoundEntry]:
        """Return the assets of a URI, whatever their qualifiers. Reads the whole index."""
        ...

    def missing(self, digests: Collection[Digest]) -> set[Digest]:
        """Return those that FindMissing would call missing."""
        ...

    def read(self, digest: Digest) -> bytes | None:
        """Return a blob's verified bytes, None when it is not here or damaged."""
        ...


class Operations(Protocol):
    """What commands do to a storage; all of it blocks.

    All methods raise StorageRefused when there is no such storage, it cannot be read, or its engine
    has no such operation; those that write StorageFull and StorageFailed, too.
    """

    def processes(self) -> list[dict[str, Any]]:
        """Return what each process that serves the storage now has announced."""
        ...

    def send_signal(self, process: Mapping[str, Any], number: signal.Signals) -> str | None:
        """Signal one of processes(); return why that was not possible, None if it was."""
        ...

    def summary(self) -> dict[str, Any]:
        """Return the facts that `federation status` shows."""
        ...

    def explaining(self) -> AbstractContextManager[Explainer]:
        """Open the storage for questions."""
        ...

    def verify(self, progress: Progress, *, repair: bool) -> VerifyReport:
        """Compare every blob with its digest, and check the catalogue; repair sets bad ones aside.

        Safe beside serving nodes.
        """
        ...

    def collect(self, progress: Progress, *, target_bytes: int | None) -> CollectReport:
        """Evict until at most target_bytes are held (None: the low watermark of the quota)."""
        ...

    def rebuild(self, progress: Progress) -> RebuildReport:
        """Make the catalogue anew from what is held, while no node serves the storage."""
        ...

    def new_id(self) -> NewId:
        """Give a copy of a storage an id of its own, while no node serves it."""
        ...

    def peers(self) -> list[KnownPeer]:
        """Return every peer that was ever met and not dropped, by name."""
        ...

    def parked(self, peer: str | None, limit: int) -> Sequence[Parked]:
        """Return what is parked, oldest first, for one peer or all."""
        ...

    def retry_parked(self, peer: str | None) -> int:
        """Ask that what is parked, for one peer or all, be tried again; return how much it is."""
        ...

    def reconcile(self, peer: str) -> None:
        """Ask that a peer be compared with what is held here, and be sent what it lacks."""
        ...

    def drop_peer(self, peer: str) -> None:
        """Forget a peer, what is pinned for it, and what is parked for it."""
        ...

    def offline_since_s(self) -> int | None:
        """Return when (wall clock) the offline switch was turned on; None: it is off."""
        ...

    def turn_offline(self, *, on: bool) -> None:
        """Turn the switch for all processes, running or not yet."""
        ...
