"""Nodes that serve a cache over HTTP: a site where clients write, its peer, and a mirror of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.http.builds import CacheAddress
from tests.clients.mirror import upstream
from tests.faults.replication.mesh import is_idle, only_peer
from tests.support.polling import wait_until
from tests.support.process import Node, serve

GRPC, HTTP = range(2)  # the listeners of each node


def listeners(**http: Any) -> list[dict[str, Any]]:
    """Return one gRPC and one HTTP listener; http: further keys of the latter."""
    return [
        {"address": "127.0.0.1:0", "push": True},
        {"address": "127.0.0.1:0", "protocol": "http", "push": True, **http},
    ]


def over_http(node: Node, token: str | None = None) -> CacheAddress:
    """Return where a node serves its cache over HTTP."""
    return CacheAddress(node.addresses[HTTP], token)


@dataclass(frozen=True)
class HttpSites:
    """paris takes writes and replicates to tokyo; mirror pulls from paris."""

    paris: Node
    tokyo: Node
    mirror: Node

    def wait_until_replicated(self) -> None:
        """Wait until tokyo has all that was written to paris."""
        wait_until(lambda: is_idle(only_peer(self.paris)), "tokyo has everything")

    def lose_paris(self) -> CacheAddress:
        """Kill paris and return where it was; what mirror still pulls ends first."""
        was = over_http(self.paris)
        wait_until(
            lambda: self.mirror.metrics().value("federation_prefetches_unfinished") == 0,
            "the mirror has what belongs to what it was asked for",
        )
        self.paris.kill()
        return was


@contextmanager
def http_sites(folder: Path, instance: str = "") -> Iterator[HttpSites]:
    """Run the three nodes, each with an empty data directory.

    instance: in which mirror asks paris.
    """
    for name in ("paris", "tokyo", "mirror"):
        (folder / name).mkdir(parents=True)
    with serve(folder / "tokyo" / "data", {"listeners": listeners()}) as tokyo:
        peer = {"name": "tokyo", "url": f"grpc://{tokyo.addresses[GRPC]}"}
        settings = {"listeners": listeners(), "peers": [peer]}
        with serve(folder / "paris" / "data", settings) as paris:
            pull = {
                "listeners": listeners(),
                "upstreams": [upstream(paris.addresses[GRPC], "paris", instance_name=instance)],
            }
            with serve(folder / "mirror" / "data", pull) as mirror:
                yield HttpSites(paris, tokyo, mirror)
