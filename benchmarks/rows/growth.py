"""How the cost of calls grows with what is held: the same FindMissing and BatchRead, more blobs."""

from __future__ import annotations

import asyncio
from functools import partial

from benchmarks.base import CallRow, RowSpec
from benchmarks.process import Server
from benchmarks.rows.batch import BatchRead
from benchmarks.rows.missing import FindMissing
from benchmarks.rows.start import fill_storage


class _Among(CallRow):
    """Fills the storage before the server starts, by the fastest way there is."""

    held: int

    def prepare(self) -> None:
        """See Row."""
        asyncio.run(fill_storage(self.server.data_dir, self.held))
        super().prepare()


class FindMissingAmong(_Among, FindMissing):
    """A thousand digests of which half are held, among many others."""

    def __init__(self, server: Server, held: int) -> None:
        super().__init__(server, count=1000)
        self.held = held


class BatchReadAmong(_Among, BatchRead):
    """A hundred blobs of 1 KiB, among many others."""

    def __init__(self, server: Server, held: int) -> None:
        super().__init__(server, blobs=100)
        self.held = held


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows; the node alone, since the others keep a file for each blob."""
    sizes = (1000, 100_000, 1_000_000, 10_000_000)
    kinds = [
        ("find-missing-1000", "FindMissing, 1,000 digests", FindMissingAmong, 1000, "digest"),
        ("batch-read-100", "BatchRead, 100 x 1 KiB", BatchReadAmong, 100, "blob"),
    ]
    return [
        RowSpec(
            f"{name}-among-{held}",
            f"{title}, among {held:,} blobs",
            partial(kind, held=min(held, 10_000) if quick else held),
            items=items,
            item=item,
            servers=("federation",),
        )
        for held in sizes
        for name, title, kind, items, item in kinds
    ]
