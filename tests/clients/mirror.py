"""A node that has upstreams, and what it asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.clients.tools import Counted
from tests.support.polling import wait_until
from tests.support.process import Node, serve

_WRITES = ("BatchUpdateBlobs", "Write", "UpdateActionResult", "PushBlob", "PushDirectory")


def upstream(address: str, name: str = "there", **more: Any) -> dict[str, Any]:
    """Return the settings of one upstream, `_` for `-`."""
    settings = {key.replace("_", "-"): value for key, value in more.items()}
    return {"name": name, "url": f"http://{address}", **settings}


@contextmanager
def mirror(folder: Path, *upstreams: dict[str, Any], **pull: Any) -> Iterator[Node]:
    """Run a node with these upstreams: addresses[0] takes writes, addresses[1] only answers.

    pull: keys of the `pull` section, `_` for `-`.
    """
    listeners = [
        {"address": "127.0.0.1:0", "push": True},
        {"address": "127.0.0.1:0", "push": False},
    ]
    settings = {
        "listeners": listeners,
        "upstreams": list(upstreams),
        "pull": {key.replace("_", "-"): value for key, value in pull.items()},
    }
    folder.mkdir()
    with serve(folder / "data", settings) as node:
        yield node


class Asked(Counted):
    """What a node has asked of its upstreams since this was made, besides what it answered."""

    def of(self, method: str, name: str = "there", **labels: str) -> int:
        """Return how many calls of this method the upstream of this name was asked."""
        return self.since("federation_remote_calls_total", remote=name, method=method, **labels)

    def entries(self, name: str = "there", **labels: str) -> int:
        """Return how many answers about index entries came from it."""
        return self.since("federation_upstream_entries_total", upstream=name, **labels)

    def blobs(self, result: str, name: str = "there") -> int:
        """Return for how many blobs it answered so."""
        return self.since("federation_upstream_answers_total", upstream=name, result=result)

    def bytes_from(self, name: str = "there") -> int:
        """Return how many bytes came from it."""
        return self.since("federation_remote_bytes_total", remote=name, direction="in")


def wait_for_prefetch(node: Node) -> None:
    """Wait until all that belongs to what was asked for is on the node."""
    wait_until(
        lambda: node.metrics().value("federation_prefetches_unfinished") == 0,
        "the rest of what was pulled is here",
    )


def writes(counted: Counted) -> int:
    """Return how many calls that write a node was sent, however they ended."""
    return sum(counted.calls(method, None) for method in _WRITES)
