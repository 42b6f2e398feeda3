"""What a shared site does beside the embedded storage, and with large blobs beside obstore."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.base import CallRow, Row, RowSpec, Sample
from benchmarks.crowd import Crowd
from benchmarks.link import expect
from benchmarks.payloads import KIB, MIB
from benchmarks.process import Server
from benchmarks.rows.batch import BatchRead, BatchUpdate
from benchmarks.rows.missing import FindMissing
from benchmarks.rows.read import Read
from benchmarks.rows.write import Write
from benchmarks.site.alone import GetAlone, PutAlone
from benchmarks.site.far import ReadUncached
from benchmarks.site.servers import NodeOfSite, ObstoreAlone, expect_once

_BOTH = ("federation", "federation-shared")
_WRITERS = 16


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


class SmallWriters(CallRow):
    """So many clients that write small blobs one after the other; a value is one write's time."""

    def __init__(self, server: Server, clients: int) -> None:
        super().__init__(server)
        self._clients = clients

    def set_up(self) -> None:
        """See CallRow."""
        self._blobs = Write(self.server, KIB, new=True)
        self._blobs.link = self.link
        self._blobs.set_up()
        self._crowd = Crowd(self.server.address, self._clients)

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow; round() does not use it."""
        return iter(())

    def round(self, seconds: float) -> Sample:
        """See Row."""
        values: list[float] = []
        before_s, client_s = self.server.cpu_s(), time.process_time()
        ends_s = time.perf_counter() + seconds

        def write(link_write: Callable[[list[bytes]], object]) -> None:
            while time.perf_counter() < ends_s:
                messages = self._blobs.next_write()[1]
                began_s = time.perf_counter()
                link_write(messages)
                values.append(time.perf_counter() - began_s)

        self._crowd.run([partial(write, link.write) for link in self._crowd.links])
        return Sample(values, self.server.cpu_s() - before_s, time.process_time() - client_s)

    def close(self) -> None:
        """See Row."""
        if hasattr(self, "_crowd"):
            self._crowd.close()
        super().close()


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
        *(
            RowSpec(
                f"site-{clients}-writers",
                f"Write 1 KiB, new, {clients} writer{'' if clients == 1 else 's'}",
                partial(SmallWriters, clients=clients),
                stores=True,
                budget="" if clients == 1 else "p50 ≤ 3x that of one",
                servers=_BOTH,
            )
            for clients in (1, _WRITERS)
        ),
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
