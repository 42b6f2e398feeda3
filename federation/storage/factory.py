"""Makes a storage or the operations on it: the only place that chooses the engine."""

from __future__ import annotations

from pathlib import Path

from federation.config.model import Config, StorageConfig
from federation.core.clock import Clock
from federation.observability.metrics import Metrics
from federation.storage.contract import NodeStorage, Operations


async def open_storage(config: Config, metrics: Metrics, clock: Clock) -> NodeStorage:
    """Open the storage that a configuration names, creating it if it does not exist.

    Raises StorageRefused.
    """
    from federation.storage.storage import Storage  # noqa: PLC0415 - load an engine only when used

    return await Storage.open(config.data_dir, config.storage, config.limits, metrics, clock)


def operations_on(data_dir: Path, settings: StorageConfig) -> Operations:
    """Return the operations of commands on a storage. Opens nothing yet."""
    from federation.storage.admin.operations import DirectoryOperations  # noqa: PLC0415

    return DirectoryOperations(data_dir, settings)
