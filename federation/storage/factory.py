"""The one place that knows which engine keeps a storage."""

from __future__ import annotations

from pathlib import Path

from federation.config.model import Config, StorageConfig
from federation.core.clock import Clock
from federation.observability.metrics import Metrics
from federation.storage.contract import NodeStorage, Operations


async def open_storage(config: Config, metrics: Metrics, clock: Clock) -> NodeStorage:
    """Open the storage that a configuration names, making it when it is not there.

    Raises StorageRefused.
    """
    from federation.storage.storage import Storage  # noqa: PLC0415 - an engine is loaded when used

    return await Storage.open(config.data_dir, config.storage, config.limits, metrics, clock)


def operations_on(data_dir: Path, settings: StorageConfig) -> Operations:
    """Return what commands may do to a storage; opens nothing yet."""
    from federation.storage.admin.operations import DirectoryOperations  # noqa: PLC0415

    return DirectoryOperations(data_dir, settings)
