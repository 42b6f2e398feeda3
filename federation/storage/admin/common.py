"""Ways to open a data directory for a command: for reading, exclusively, or beside its nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw

from federation.config import model
from federation.core.clock import SystemClock
from federation.core.errors import StorageRefused
from federation.observability.metrics import Metrics
from federation.storage.catalogue import footprint, schema
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.catalogue.transaction import read_totals
from federation.storage.directory import DataDirectory
from federation.storage.processes import live_runs
from federation.storage.quarantine import kept_bytes
from federation.storage.shared_memory import FileLock
from federation.storage.space import Marks, marks, measure_disk
from federation.storage.storage import Storage


def existing(data_dir: Path) -> DataDirectory:
    """Return the data directory. Raises StorageRefused if it does not exist."""
    directory = DataDirectory(data_dir)
    if not data_dir.is_dir():
        raise StorageRefused(f"{data_dir} does not exist; set --data-dir or --config")
    return directory


@contextmanager
def unserved(directory: DataDirectory) -> Iterator[None]:
    """Keep nodes from opening the directory. Raises StorageRefused if one serves it."""
    lock = FileLock(directory.open_lock)
    # Held to the end, so that no node opens the directory meanwhile.
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
    """Open the catalogue for reading only.

    Raises StorageRefused if there is none or it cannot be read, on entry or in the block.
    """
    if not directory.catalogue.exists():
        raise StorageRefused(f"{directory.root} has no catalogue; no node has served it yet")
    try:
        connection = schema.connect(directory.catalogue, read_only=True)
        # A node of an older version may still serve it, and commands of this one are to work beside
        # it.
        schema.show_as_current(connection)
        try:
            yield connection
        finally:
            connection.close()
    except UNREADABLE as error:
        raise StorageRefused(
            f"{directory.catalogue} cannot be read ({error}); see `federation rebuild --help`"
        ) from error


class Room(NamedTuple):
    """How much a data directory holds, and may hold; bytes."""

    held: int  # by objects
    overhead: int  # beside them
    marks: Marks


def room_of(
    directory: DataDirectory, settings: model.StorageConfig, connection: apsw.Connection
) -> Room:
    """Measure a data directory and its disk. Raises OSError."""
    held = footprint.measure(connection, read_totals(connection)).held
    overhead = footprint.overhead(directory.root, kept_bytes(directory))
    return Room(held, overhead, marks(settings, measure_disk(directory.root), held, overhead))


@asynccontextmanager
async def joined(data_dir: Path, settings: model.StorageConfig) -> AsyncIterator[Storage]:
    """Open an existing data directory beside its nodes, without maintenance.

    Raises StorageRefused.
    """
    existing(data_dir)
    storage = await Storage.open(
        data_dir, settings, model.LimitsConfig(), Metrics(), SystemClock(), maintain=False
    )
    try:
        yield storage
    finally:
        await storage.close()
