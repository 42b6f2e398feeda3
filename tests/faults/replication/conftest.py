"""Two nodes that send to each other, for the tests of a file that break one thing each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.replication.mesh import MUTUAL, Mesh
from tests.faults.replication.stub import Stub
from tests.faults.replication.work import settle


@pytest.fixture(scope="module")
def _two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("pair"), MUTUAL) as mesh:
        mesh.start()
        mesh.wait_until_idle()
        yield mesh


@pytest.fixture
def pair(_two: Mesh) -> Iterator[Mesh]:
    """a and b; at the end of each test they must hold the same, digest by digest."""
    yield _two
    settle(_two)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as serving:
        yield serving
