"""A node as its own process, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import Node, serve
from tests.process_client import Client


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def node(data_dir: Path) -> Iterator[Node]:
    with serve(data_dir) as serving:
        yield serving


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for the tests of a file that leave no mark on it."""
    with serve(tmp_path_factory.mktemp("shared") / "data") as serving:
        yield serving


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with Client(node.address) as calling:
        yield calling
