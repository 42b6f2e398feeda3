"""What the operations share: opening a data directory to read it, or as one more process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import apsw

from federation.config import model
from federation.core.clock import SystemClock
from federation.core.errors import StorageRefused
from federation.observability.metrics import Metrics
from federation.storage.catalogue import schema
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.directory import DataDirectory
from federation.storage.processes import live_runs
from federation.storage.shared_memory import FileLock
from federation.storage.storage import Storage


def existing(data_dir: Path) -> DataDirectory:
    """Return the data directory. Raises StorageRefused when there is none."""
    directory = DataDirectory(data_dir)
    if not data_dir.is_dir():
        raise StorageRefused(f"{data_dir} is not there; name it with --data-dir or --config")
    return directory


@contextmanager
def unserved(directory: DataDirectory) -> Iterator[None]:
    """Keep nodes from opening the directory. Raises StorageRefused while one serves it."""
    lock = FileLock(directory.open_lock)
    lock.acquire(wait=True)
    try:
        if users := live_runs(directory):
            pids = ", ".join(str(run.get("pid", run["id"])) for run in users)
            raise StorageRefused(f"a node serves {directory.root} (pid {pids}); stop that first")
        yield
    finally:
        lock.release()


@contextmanager
def reading(directory: DataDirectory) -> Iterator[apsw.Connection]:
    """Open the catalogue for questions only.

    Raises StorageRefused when there is none, or it cannot be read, here or while it is used.
    """
    if not directory.catalogue.exists():
        raise StorageRefused(
            f"{directory.root} holds no catalogue; nothing has been served from it yet"
        )
    try:
        connection = schema.connect(directory.catalogue, read_only=True)
        schema.show_as_current(connection)
        try:
            yield connection
        finally:
            connection.close()
    except UNREADABLE as error:
        raise StorageRefused(
            f"{directory.catalogue} cannot be read ({error}); see `federation rebuild --help`"
        ) from error


@asynccontextmanager
async def joined(data_dir: Path, settings: model.StorageConfig) -> AsyncIterator[Storage]:
    """Open an existing data directory as one more process that does no maintenance."""
    existing(data_dir)
    storage = await Storage.open(
        data_dir, settings, model.LimitsConfig(), Metrics(), SystemClock(), maintain=False
    )
    try:
        yield storage
    finally:
        await storage.close()
