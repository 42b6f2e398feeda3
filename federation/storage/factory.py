"""Makes a storage or the operations on it: the only place that chooses the engine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from federation.config.model import Config, StorageConfig
from federation.core.clock import Clock
from federation.core.errors import StorageRefused
from federation.observability.metrics import Metrics
from federation.storage.contract import NodeStorage, Operations

_SHARED_NEEDS = ("psycopg", "obstore")


async def open_storage(config: Config, metrics: Metrics, clock: Clock) -> NodeStorage:
    """Open the storage that a configuration names, creating it if it does not exist.

    Raises StorageRefused.
    """
    if config.storage.engine == "shared":
        check_shared_installed()
        from federation.storage.shared.storage import SharedStorage  # noqa: PLC0415

        return await SharedStorage.open(
            config.data_dir, config.storage, config.limits, metrics, clock
        )
    from federation.storage.storage import Storage  # noqa: PLC0415 - load an engine only when used

    return await Storage.open(config.data_dir, config.storage, config.limits, metrics, clock)


def check_shared_installed() -> None:
    """Raise StorageRefused if a package that the shared engine needs is not installed."""
    absent = [name for name in _SHARED_NEEDS if find_spec(name) is None]
    if absent:
        raise StorageRefused(
            f"engine: shared needs {' and '.join(absent)}: pip install 'federation-cache[shared]'"
        )


def operations_on(data_dir: Path, settings: StorageConfig) -> Operations:
    """Return the operations of commands on a storage. Opens nothing yet.

    Raises StorageRefused.
    """
    if settings.engine == "shared":
        check_shared_installed()
        from federation.storage.shared.opening import operations_on_site  # noqa: PLC0415

        return operations_on_site(data_dir, settings)
    from federation.storage.admin.operations import DirectoryOperations  # noqa: PLC0415

    return DirectoryOperations(data_dir, settings)
