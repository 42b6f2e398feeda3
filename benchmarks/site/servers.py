"""The servers of this table, each over a PostgreSQL and an S3 server of its own.

These are the ones of the tests (tests/servers/install), but on the disk on which the embedded
storage is measured, and with PostgreSQL's usual settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from benchmarks.link import expect
from benchmarks.payloads import KIB
from benchmarks.process import Server, ServerFailedError
from benchmarks.servers import MeasuredNode, Node, NodeOfTwo, NodeOverHttp2
from benchmarks.site.slow_disk import slow_syncs
from tests.support.object_store import BUCKET, ObjectStoreServer, running
from tests.support.postgres import Postgres
from tests.support.sites import GIB, SiteServers, TestSite

_DATABASE = {
    "shared_buffers": "256MB",
    "wal_writer_delay": "200ms",
    "checkpoint_timeout": "5min",
    "autovacuum_naptime": "1min",
}
_MOVED = "federation_bucket_bytes_total"
_MARKERS_KIB = 64  # some hundred of them


class NodeOfSite(MeasuredNode):
    """This project's node with `storage: {engine: shared}`. CPU and memory are the node's alone."""

    name = "federation-shared"
    durability = "synced"  # by PostgreSQL and the S3 server, before the answer

    def __init__(self, home: Path, site: TestSite | None = None) -> None:
        """site: be another node of it; default: begin one, with servers of its own."""
        super().__init__(home)
        self.sync_ms = 0  # that a sync of the database's disk takes longer
        self._beside = ExitStack()
        self._site = site

    def start(self) -> float:
        """See Server."""
        if self._site is None:
            self._site = self._beside.enter_context(_servers(self.home, self.sync_ms)).new_site()
        return super().start()

    def stop(self) -> None:
        """See Server."""
        super().stop()
        self._beside.close()

    def settings(self) -> dict[str, object]:
        """See Node."""
        assert self._site is not None
        storage = self._site.keys(quota=64 * GIB, cache=16 * GIB)
        return {**super().settings(), "storage": dict(storage)}

    def another(self) -> NodeOfSite:
        """Return another node of the same site, which is not started."""
        return NodeOfSite(self.home / "another", self._site)

    def moved(self, direction: str) -> int:
        """Return how many KiB the node has sent to the bucket (out) or got from it (in)."""
        return self.counted(_MOVED, direction=direction) // KIB


class NodeOfSiteOverHttp2(NodeOfSite):
    """The same with `transport: http2`."""

    name = "federation-shared-http2"

    def settings(self) -> dict[str, object]:
        """See Node."""
        return {**super().settings(), "transport": "http2"}


class NodeOfSiteOfTwoOverHttp2(NodeOfSiteOverHttp2, NodeOfTwo):
    """The same with `workers: 2` besides."""

    name = "federation-shared-http2-2"


class ObstoreAlone(Server):
    """The S3 server as this process uses it with obstore: the bound of what a node can reach."""

    name = "obstore"
    durability = "synced"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._beside = ExitStack()
        self._bucket: ObjectStoreServer | None = None

    def start(self) -> float:
        """See Server."""
        self._bucket = self._beside.enter_context(running(_folder(self.home, "s3")))
        self.store = self._bucket.store(BUCKET, self._bucket.new_prefix())
        return 0.0

    def stop(self) -> None:
        """See Server."""
        self._beside.close()

    def command(self) -> list[str]:
        """See Server."""
        raise ServerFailedError("obstore is no program of its own")

    @property
    def pid(self) -> int:
        """See Server: this process."""
        return os.getpid()

    def cpu_s(self) -> float:
        """See Server: all of it is the client's."""
        return 0.0


def expect_once(moved_kib: int, size_bytes: int) -> None:
    """Raise WrongAnswerError unless a blob's bytes were moved once; see NodeOfSite.moved."""
    wanted_kib = size_bytes // KIB
    told = f"{moved_kib} KiB went between node and bucket for a blob of {wanted_kib}"
    expect(wanted_kib - 1 <= moved_kib <= wanted_kib + _MARKERS_KIB, told)


@contextmanager
def _servers(home: Path, sync_ms: int) -> Iterator[SiteServers]:
    with ExitStack() as opened:
        try:
            database = Postgres(_folder(home, "pg"))
        except AssertionError as error:  # it says what to install
            raise ServerFailedError(str(error)) from error
        opened.callback(database.close)
        with slow_syncs(home, sync_ms) if sync_ms else nullcontext():
            database.start(**_DATABASE)
        yield SiteServers(database, opened.enter_context(running(_folder(home, "s3"))), home)


def _folder(home: Path, name: str) -> Path:
    folder = home / name
    folder.mkdir()
    return folder


SITE_SERVERS: dict[str, type[Server]] = {
    kind.name: kind
    for kind in (
        Node,
        NodeOverHttp2,
        NodeOfSite,
        NodeOfSiteOverHttp2,
        NodeOfSiteOfTwoOverHttp2,
        ObstoreAlone,
    )
}
