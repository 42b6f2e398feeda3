"""What a shared site does beside the embedded storage, and with large blobs beside obstore."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.base import Row, RowSpec, Sample
from benchmarks.link import expect
from benchmarks.payloads import KIB, MIB
from benchmarks.process import Server
from benchmarks.rows.batch import BatchRead, BatchUpdate
from benchmarks.rows.missing import FindMissing
from benchmarks.rows.read import Read
from benchmarks.rows.write import Write
from benchmarks.site import writers
from benchmarks.site.alone import GetAlone, PutAlone
from benchmarks.site.far import ReadUncached
from benchmarks.site.servers import NodeOfSite, ObstoreAlone, expect_once

_BOTH = ("federation", "federation-shared")


class ReadCached(Read):
    """Reads of blobs that the node's cache has; proves that the bucket is not asked."""

    def __init__(self, server: Server, size_bytes: int) -> None:
        super().__init__(server, size_bytes, cold=False)

    def round(self, seconds: float) -> Sample:
        """See Row."""
        if not isinstance(self.server, NodeOfSite):
            return super().round(seconds)
        before = self.server.moved("in")
        sample = super().round(seconds)
        expect(self.server.moved("in") <= before + 1, "the bucket was asked for a cached blob")
        return sample


class WriteToSite(Write):
    """Writes of new blobs; proves that each part is sent to the bucket once."""

    def __init__(self, server: Server, size_bytes: int) -> None:
        super().__init__(server, size_bytes, new=True)

    def set_up(self) -> None:
        """See CallRow."""
        if not isinstance(self.server, NodeOfSite):
            super().set_up()
            return
        before = self.server.moved("out")
        super().set_up()
        expect_once(self.server.moved("out") - before, self._size_bytes)


def _write(server: Server, size_bytes: int) -> Row:
    if isinstance(server, ObstoreAlone):
        return PutAlone(server, size_bytes)
    return WriteToSite(server, size_bytes)


def _read_uncached(server: Server, size_bytes: int) -> Row:
    if isinstance(server, ObstoreAlone):
        return GetAlone(server, size_bytes)
    assert isinstance(server, NodeOfSite)
    return ReadUncached(server, size_bytes)


def all_rows(*, quick: bool) -> dict[str, RowSpec]:
    """Return every row by name; quick makes the heavy ones small."""
    large = 16 * MIB if quick else 256 * MIB
    cached = [("1KiB", KIB), ("1MiB", MIB), ("256MiB", large)]
    rows = [
        RowSpec(
            "site-find-missing-1000",
            "FindMissing, 1,000 digests",
            partial(FindMissing, count=1000),
            items=1000,
            item="digest",
            budget="≤ 0.3x embedded's CPU, ≤ 3x its time",
            servers=_BOTH,
        ),
        RowSpec(
            "site-batch-update-1000",
            "BatchUpdate, 1,000 x 1 KiB",
            partial(BatchUpdate, blobs=1000),
            items=1000,
            item="blob",
            stores=True,
            budget="≥ 0.7x embedded's blobs/s, ≤ 0.5x its CPU",
            servers=_BOTH,
        ),
        RowSpec(
            "site-batch-read-1000",
            "BatchRead, 1,000 x 1 KiB, cached",
            partial(BatchRead, blobs=1000),
            items=1000,
            item="blob",
            budget="≥ 0.95x embedded",
            servers=_BOTH,
        ),
        *(_large(f"read-{n}-cached", f"Read {n}, cached", ReadCached, s, _BOTH) for n, s in cached),
        *(
            _large(
                f"read-{name}-uncached",
                f"Read {name}, not cached",
                _read_uncached,
                size_bytes,
                ("federation-shared", "obstore"),
            )
            for name, size_bytes in cached[1:]
        ),
        *(
            _large(
                f"write-{name}",
                f"Write {name}, new",
                _write,
                size_bytes,
                (*_BOTH, "obstore"),
                stores=True,
            )
            for name, size_bytes in cached[1:]
        ),
        *writers.rows(),
    ]
    return {row.name: row for row in rows}


def _large(
    name: str,
    title: str,
    make: Callable[..., Row],
    size_bytes: int,
    servers: tuple[str, ...],
    *,
    stores: bool = False,
) -> RowSpec:
    beside = "obstore alone" if "obstore" in servers else "embedded"
    return RowSpec(
        f"site-{name}",
        title,
        partial(make, size_bytes=size_bytes),
        items=size_bytes,
        item="B",
        stores=stores,
        budget=f"≥ {0.7 if 'obstore' in servers else 0.95}x {beside}",
        servers=servers,
    )
