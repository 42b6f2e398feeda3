"""Operations on a data directory: see federation/storage/contract.py."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from federation.config.model import StorageConfig
from federation.core.replication_log import Parked
from federation.storage import admin
from federation.storage.admin.node_id import new_id
from federation.storage.admin.signalling import send
from federation.storage.contract import Explainer, Operations, Progress
from federation.storage.reports import (
    CollectReport,
    KnownPeer,
    NewId,
    RebuildReport,
    VerifyReport,
)


class DirectoryOperations(Operations):
    """Those of the embedded engine."""

    def __init__(self, data_dir: Path, settings: StorageConfig) -> None:
        self._data_dir = data_dir
        self._settings = settings

    def __repr__(self) -> str:
        return f"<DirectoryOperations {self._data_dir}>"

    def processes(self) -> list[dict[str, Any]]:
        """See Operations."""
        return admin.processes(self._data_dir)

    def send_signal(self, process: Mapping[str, Any], number: signal.Signals) -> str | None:
        """See Operations."""
        return send(self._data_dir, process["id"], process["pid"], number)

    def summary(self) -> dict[str, Any]:
        """See Operations."""
        return admin.summary(self._data_dir)

    def explaining(self) -> AbstractContextManager[Explainer]:
        """See Operations."""
        return admin.explaining(self._data_dir, self._settings)

    def verify(self, progress: Progress, *, repair: bool) -> VerifyReport:
        """See Operations."""
        return admin.verify(self._data_dir, self._settings, progress, repair=repair)

    def collect(self, progress: Progress, *, target_bytes: int | None) -> CollectReport:
        """See Operations."""
        return admin.collect(self._data_dir, self._settings, progress, target_bytes=target_bytes)

    def rebuild(self, progress: Progress) -> RebuildReport:
        """See Operations."""
        return admin.rebuild(self._data_dir, self._settings, progress)

    def new_id(self) -> NewId:
        """See Operations."""
        return new_id(self._data_dir)

    def peers(self) -> list[KnownPeer]:
        """See Operations."""
        return admin.known_peers(self._data_dir)

    def parked(self, peer: str | None, limit: int) -> Sequence[Parked]:
        """See Operations."""
        return admin.read_parked(self._data_dir, peer, limit)

    def retry_parked(self, peer: str | None) -> int:
        """See Operations."""
        return admin.ask_retry(self._data_dir, self._settings, peer)

    def reconcile(self, peer: str) -> None:
        """See Operations."""
        admin.ask_reconcile(self._data_dir, self._settings, peer)

    def drop_peer(self, peer: str) -> None:
        """See Operations."""
        admin.drop_peer(self._data_dir, self._settings, peer)

    def offline_since_s(self) -> int | None:
        """See Operations."""
        return admin.offline_since_s(self._data_dir)

    def turn_offline(self, *, on: bool) -> None:
        """See Operations."""
        admin.turn_offline(self._data_dir, self._settings, on=on)
