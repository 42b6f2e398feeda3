"""The servers of one row: an upstream, and before it the proxies that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.link import BYTE_STREAM, CAS
from benchmarks.mirror.relay import Relay
from benchmarks.process import Server
from benchmarks.servers import Casd, MeasuredNode, Node

_READS = (f"{BYTE_STREAM}/Read", f"{CAS}/BatchReadBlobs")


class Upstream(MeasuredNode):
    """A node that everything is pulled from, and that counts what it is asked."""

    name = "upstream"

    def reads(self) -> int:
        """Return how many calls that read blobs have ended since the start."""
        return sum(self.counted("federation_requests_total", method=method) for method in _READS)


class MirrorNode(Node):
    """A node that pulls from the upstream; whatever else is the default."""

    upstream = ""

    def settings(self) -> dict[str, object]:
        """See Node."""
        there = {"name": "upstream", "url": f"http://{self.upstream}"}
        return {**super().settings(), "upstreams": [there]}


class CasdProxy(Casd):
    """buildbox-casd as a proxy of the upstream."""

    upstream = ""

    def options(self) -> list[str]:
        """See Casd."""
        return [f"--cas-remote=http://{self.upstream}"]


PROXIES: dict[str, type[MirrorNode | CasdProxy]] = {
    kind.name: kind for kind in (MirrorNode, CasdProxy)
}


class Distance(NamedTuple):
    """What lies between the upstream and everybody else."""

    round_trip_ms: float
    bytes_s: float


class Site:
    """An upstream and proxies of it, running."""

    def __init__(self, home: Path, proxies: Sequence[str], distance: Distance | None) -> None:
        """proxies: keys of PROXIES; distance None: all on loopback."""
        self.upstream = Upstream(home)
        self._distance = distance
        self._relay: Relay | None = None
        self._proxies = [PROXIES[name](home) for name in proxies]

    @property
    def fronts(self) -> list[Server]:
        """What clients ask: the upstream itself, then each proxy."""
        return [self.upstream, *self._proxies]

    def start(self) -> None:
        """Start all of them; raises ServerFailedError."""
        self.upstream.start()
        if self._distance is not None:
            delay_ms = self._distance.round_trip_ms / 2
            self._relay = Relay(self.upstream.address, delay_ms, self._distance.bytes_s)
        for proxy in self._proxies:
            proxy.upstream = self.address_of(self.upstream)
            proxy.start()

    def address_of(self, front: Server) -> str:
        """Return where one that reads finds it."""
        if front is self.upstream and self._relay is not None:
            return self._relay.address
        return front.address

    def stop(self) -> None:
        """Stop those that run."""
        for server in reversed(self.fronts):
            server.stop()
        if self._relay is not None:
            self._relay.stop()
