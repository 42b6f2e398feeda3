"""What Bazel writes over one protocol it reads over the other; and other layouts of clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.http.every import VARIANTS
from tests.clients.http.remote_execution import BazelOverHttp
from tests.clients.http.sites import listeners, over_http
from tests.support.process import Node, serve

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node with a gRPC and an HTTP listener."""
    (tmp_path / "node").mkdir()
    with serve(tmp_path / "node" / "data", {"listeners": listeners()}) as node:
        yield node


@pytest.mark.parametrize("order", [("grpc", "http"), ("http", "grpc")], ids="-then-".join)
def test_bazel_reads_over_one_protocol_what_it_wrote_over_the_other(
    tmp_path: Path, node: Node, order: tuple[str, str]
) -> None:
    urls = {"grpc": f"grpc://{node.addresses[0]}", "http": over_http(node).url}
    client = BazelOverHttp(tmp_path / "client")
    written, read = (client.build_with(urls[protocol]) for protocol in order)
    assert (written.hits, written.executed) == (0, client.actions), written.output
    assert (read.hits, read.executed) == (client.actions, 0), read.output
    assert read.outputs == written.outputs


@pytest.mark.parametrize("name", VARIANTS)
def test_other_layouts_are_hits_too(tmp_path: Path, node: Node, name: str) -> None:
    client = VARIANTS[name](tmp_path / "client")
    written, read = (client.build(over_http(node)) for _ in range(2))
    assert (written.hits, written.executed) == (0, client.actions), written.output
    assert (read.hits, read.executed) == (client.actions, 0), read.output
    assert read.outputs == written.outputs
