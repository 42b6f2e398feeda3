"""The node that the clients of this folder talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import Node, serve


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A serving process: addresses[0] takes writes, addresses[1] only answers."""
    listeners = [
        {"address": "127.0.0.1:0", "push": True},
        {"address": "127.0.0.1:0", "push": False},
    ]
    folder = tmp_path / "node"
    folder.mkdir()
    with serve(folder / "data", {"listeners": listeners}) as node:
        yield node
