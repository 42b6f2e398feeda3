"""How long a server takes from exec to its first answer, with few and with many objects."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.base import Row, RowSpec, Sample
from benchmarks.process import Server
from federation.config.model import LimitsConfig
from federation.config.model import StorageConfig as StorageSettings
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from federation.observability.metrics import Metrics
from federation.storage.storage import Storage

_BATCH = 5000


class Start(Row):
    """Starts the server on a directory that already holds this many small blobs."""

    warms_up = False

    def __init__(self, server: Server, blobs: int) -> None:
        super().__init__(server)
        self._blobs = blobs

    def prepare(self) -> None:
        """See Row. The blobs are laid down by the fastest way there is, not through gRPC."""
        if self.server.name == "federation":
            asyncio.run(fill_storage(self.server.data_dir, self._blobs))
        else:
            self.server.start()  # once, so that it lays out its directory
            self.server.stop()
            _fill_folder(self.server.data_dir / "cas" / "objects", self._blobs)
        os.sync()
        self.server.start()

    def round(self, seconds: float) -> Sample:
        """See Row. One start, however long."""
        del seconds
        self.server.stop()
        value = self.server.start()
        return Sample([value], self.server.cpu_s(), 0.0)


async def fill_storage(data_dir: Path, blobs: int) -> None:
    """Write small blobs through the node's own storage package, in large durable batches."""
    clock = SystemClock()
    storage = await Storage.open(data_dir, StorageSettings(), LimitsConfig(), Metrics(), clock)
    try:
        for first in range(0, blobs, _BATCH):
            batch = [(digest_of(data), data) for data in _contents(first, blobs)]
            refused = [error for error in await storage.write_small(batch) if error]
            if refused:
                raise refused[0]
    finally:
        await storage.close()


def _fill_folder(objects: Path, blobs: int) -> None:
    """Lay files down as both buildbox-casd and BuildGrid name them: <2 hex>/<62 hex>."""
    for number in range(256):
        (objects / f"{number:02x}").mkdir(parents=True, exist_ok=True)
    for first in range(0, blobs, _BATCH):
        for data in _contents(first, blobs):
            name = hashlib.sha256(data).hexdigest()
            (objects / name[:2] / name[2:]).write_bytes(data)


def _contents(first: int, blobs: int) -> Iterator[bytes]:
    return (b"small blob %d" % number for number in range(first, min(first + _BATCH, blobs)))


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    many = 20_000 if quick else 1_000_000
    return [
        RowSpec("start-1000", "Start with 1,000 blobs", partial(Start, blobs=1000)),
        RowSpec(
            "start-1000000",
            f"Start with {many:,} blobs",
            partial(Start, blobs=many),
            budget="≤ 2 s; aim: independent of the number",
        ),
    ]
