from __future__ import annotations

import sys
from typing import TypedDict, Unpack

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from federation.config.model import LimitsConfig
from federation.core.digest import EMPTY, Digest, DigestFunction, digest_of
from federation.observability.metrics import Metrics
from federation.services.cas import CasService
from federation.services.cas_tree import DIRECTORY_MAX_BYTES, PAGE_BYTES
from federation.services.cpu_pool import Compute
from tests.services.conftest import Serve, Served, status_of
from tests.support.fakes import MemoryStore

IA = grpc.StatusCode.INVALID_ARGUMENT
_DIRECTORIES_MAX = 5000


def wire(digest: Digest) -> pb.Digest:
    return pb.Digest(hash=digest.hash_hex, size_bytes=digest.size_bytes)


class Builder:
    """Puts directories into a store."""

    def __init__(
        self, store: MemoryStore, function: DigestFunction = DigestFunction.SHA256
    ) -> None:
        self._store = store
        self._function = function

    def directory(self, *children: Digest, label: str = "") -> Digest:
        message = pb.Directory()
        if label:
            message.files.add(name=label, digest=wire(EMPTY))
        for number, child in enumerate(children):
            message.directories.add(name=f"{number:06}", digest=wire(child))
        return self.blob(message.SerializeToString())

    def blob(self, data: bytes) -> Digest:
        digest = digest_of(data, self._function)
        self._store.add(digest, data)
        return digest


@pytest.fixture
def build(store: MemoryStore) -> Builder:
    return Builder(store)


@pytest.fixture
async def served(serve: Serve, store: MemoryStore, compute: Compute) -> Served:
    limits = LimitsConfig(tree_directories=_DIRECTORIES_MAX)
    return await serve(CasService(store, limits, Metrics(), compute), limits=limits)


class _More(TypedDict, total=False):
    page_size: int
    page_token: str
    digest_function: pb.DigestFunction.Value


async def pages(served: Served, root: Digest, **more: Unpack[_More]) -> list[pb.GetTreeResponse]:
    request = pb.GetTreeRequest(root_digest=wire(root), **more)
    return [page async for page in served.cas.GetTree(request)]


async def tree(served: Served, root: Digest, **more: Unpack[_More]) -> list[pb.Directory]:
    got = await pages(served, root, **more)
    assert all(not page.next_page_token for page in got)
    return [directory for page in got for directory in page.directories]


def parsed(store: MemoryStore, *digests: Digest) -> list[pb.Directory]:
    return [pb.Directory.FromString(store.blobs[digest]) for digest in digests]


async def test_directories_come_breadth_first_from_the_root(
    served: Served, store: MemoryStore, build: Builder
) -> None:
    leaf = build.directory(label="leaf")
    left, right = build.directory(leaf, label="left"), build.directory(label="right")
    root = build.directory(left, right)
    assert await tree(served, root) == parsed(store, root, left, right, leaf)


async def test_w29_each_directory_of_a_diamond_comes_once(served: Served, build: Builder) -> None:
    digest = build.directory(label="bottom")
    for _ in range(40):
        digest = build.directory(digest, digest)
    assert len(await tree(served, digest)) == 41


async def test_w30_a_long_chain_is_walked_without_recursion(served: Served, build: Builder) -> None:
    digest = build.directory(label="bottom")
    depth = 3 * sys.getrecursionlimit()
    for _ in range(depth):
        digest = build.directory(digest)
    assert len(await tree(served, digest)) == depth + 1


async def test_w30_a_tree_above_the_cap_is_resource_exhausted(
    served: Served, build: Builder
) -> None:
    children = [Digest(digest_of(b"%d" % n).hash, 5) for n in range(_DIRECTORIES_MAX + 1)]
    root = build.directory(*children)
    code = await status_of(tree(served, root))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_w30_a_directory_that_fits_no_message_is_resource_exhausted(
    served: Served, build: Builder
) -> None:
    message = pb.Directory()
    for number in range(60_000):
        message.files.add(name=f"{number:06}", digest=wire(EMPTY))
    large = build.blob(message.SerializeToString())
    assert large.size_bytes > DIRECTORY_MAX_BYTES
    for root in (large, build.directory(large)):
        assert await status_of(tree(served, root)) == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_w30_pages_stay_near_1_mib(served: Served, build: Builder) -> None:
    files = [pb.FileNode(name=f"{file}", digest=wire(EMPTY)) for file in range(3000)]
    same = pb.Directory(files=files).SerializeToString()
    others = (pb.Directory(files=[pb.FileNode(name=f"{n}-")]) for n in range(30))
    children = [build.blob(same + other.SerializeToString()) for other in others]
    got = await pages(served, build.directory(*children))
    assert sum(len(page.directories) for page in got) == 31
    assert len(got) > 5
    assert max(page.ByteSize() for page in got) <= PAGE_BYTES + 100


async def test_page_size_bounds_each_response(served: Served, build: Builder) -> None:
    root = build.directory(*[build.directory(label=f"{n}") for n in range(25)])
    got = await pages(served, root, page_size=10)
    assert sum(len(page.directories) for page in got) == 26
    assert max(len(page.directories) for page in got) == 10


async def test_w31_a_missing_child_leaves_the_rest(
    served: Served, store: MemoryStore, build: Builder
) -> None:
    here, gone = build.directory(label="here"), build.directory(label="gone")
    absurd = Digest(digest_of(b"absurd").hash, 2**63 - 1)
    root = build.directory(gone, absurd, here)
    store.remove(gone)
    assert await tree(served, root) == parsed(store, root, here)


async def test_w31_w32_a_child_that_is_no_directory_leaves_the_rest(
    served: Served, store: MemoryStore, build: Builder
) -> None:
    here, random_bytes = build.directory(label="here"), build.blob(b"\xff\xff\xff")
    root = build.directory(random_bytes, here)
    assert await tree(served, root) == parsed(store, root, here)


async def test_w31_a_missing_root_is_not_found(served: Served) -> None:
    assert await status_of(tree(served, digest_of(b"x"))) == grpc.StatusCode.NOT_FOUND
    absurd = Digest(digest_of(b"x").hash, 2**63 - 1)
    assert await status_of(tree(served, absurd)) == grpc.StatusCode.NOT_FOUND


async def test_w31_a_root_that_is_no_directory_is_refused(served: Served, build: Builder) -> None:
    assert await status_of(tree(served, build.blob(b"\xff\xff\xff"))) == IA
    bad_child = pb.Directory(directories=[pb.DirectoryNode(digest=pb.Digest(hash="ABC"))])
    assert await status_of(tree(served, build.blob(bad_child.SerializeToString()))) == IA


@pytest.mark.parametrize("token", ["garbage", "0", "\n" * 1000])
async def test_w31_a_page_token_is_garbage(served: Served, build: Builder, token: str) -> None:
    assert await status_of(tree(served, build.directory(), page_token=token)) == IA


async def test_the_empty_directory_is_a_tree(served: Served) -> None:
    assert await tree(served, EMPTY) == [pb.Directory()]


async def test_a_blake3_tree_names_blake3_children(served: Served, store: MemoryStore) -> None:
    build = Builder(store, DigestFunction.BLAKE3)
    root = build.directory(build.directory(label="child"))
    assert len(await tree(served, root, digest_function=pb.DigestFunction.BLAKE3)) == 2
    assert await status_of(tree(served, root)) == grpc.StatusCode.NOT_FOUND
