"""The client against casd and BuildGrid themselves: blobs, batches, action results, assets."""

from __future__ import annotations

import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import EMPTY, DigestFunction, digest_of
from federation.core.errors import BlobNotFound, DigestMismatch
from federation.core.store import Chunks
from federation.remote.failures import Unsupported
from tests.clients.casd import casd
from tests.clients.tools import tool
from tests.remote.blobs import chunks, noise, read, text
from tests.remote.fake_server import Proxy
from tests.remote.served import Here, connected
from tests.support.guard import guarded
from tests.support.messages import directory, message_of

pytestmark = pytest.mark.clients

URI = "urn:fdc:buildstream.build:2020:artifact:project/element/key"


@contextmanager
def buildgrid(folder: Path) -> Iterator[str]:
    """Run a BuildGrid that keeps blobs and action results in memory; give its socket."""
    folder.mkdir()
    address = f"unix:{folder / 'socket'}"
    (folder / "config.yml").write_text(_BUILDGRID.format(address=address))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            guarded([tool("bgd"), "server", "start", str(folder / "config.yml")]),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=240)
        yield address
    finally:
        process.kill()
        process.wait()


_BUILDGRID = """
server:
  - !channel
    address: "{address}"
    insecure-mode: true
description: one for a test
thread-pool-size: 20
storages:
  - !lru-storage &cas
    size: 512M
caches:
  - !lru-action-cache &results
    storage: *cas
    max-cached-refs: 256
    allow-updates: true
instances:
  - name: ""
    storages: [*cas]
    caches: [*results]
    services:
      - !action-cache {{cache: *results}}
      - !cas {{storage: *cas}}
      - !bytestream {{storage: *cas}}
"""


@contextmanager
def casd_socket(folder: Path) -> Iterator[str]:
    with casd(folder):
        yield f"unix:{folder / 'socket'}"


SERVERS = {"casd": casd_socket, "buildgrid": buildgrid}


@pytest.fixture(params=SERVERS)
def make(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def proxy(make: str, tmp_path: Path) -> AsyncIterator[Proxy]:
    with SERVERS[make](tmp_path / make) as address:
        async with Proxy(address) as between:
            yield between


@pytest.fixture
async def here(proxy: Proxy) -> AsyncIterator[Here]:
    async with connected(proxy.address, retry_limit=3, retry_delay_s=0.1) as client:
        yield client


async def test_blobs_of_any_size_go_there_and_come_back(here: Here) -> None:
    for size in (1, 1000, 100_000, 5_000_000, 30_000_000):
        for data in (noise(size, size), text(size)):
            digest = digest_of(data)
            assert await here.store.find_missing([digest]) == {digest}
            with pytest.raises(BlobNotFound):
                await read(here.store, digest)
            assert await here.store.write(digest, chunks(data)) is True
            assert await here.store.write(digest, chunks()) is False
            assert await here.store.find_missing([digest, EMPTY]) == set()
            assert await read(here.store, digest) == data
            assert await read(here.store, digest, offset=size // 2) == data[size // 2 :]
            assert (
                await read(here.store, digest, offset=size // 3, limit=7) == (data[size // 3 :][:7])
            )


async def test_batches_go_there_and_come_back(here: Here) -> None:
    blobs = [
        (digest_of(noise(n, n)), noise(n, n)) for n in random.Random(3).sample(range(9999), 500)
    ]
    large = noise(6_000_000, 77)
    blobs.append((digest_of(large), large))
    wrong = digest_of(b"right")
    outcome = await here.store.write_small([*blobs, (wrong, b"wrong")])
    assert outcome[:-1] == [None] * len(blobs)
    assert isinstance(outcome[-1], DigestMismatch)
    digests = [digest for digest, _ in blobs]
    assert await here.store.find_missing([*digests, wrong]) == {wrong}
    assert await here.store.read_small([*digests, wrong]) == [*(data for _, data in blobs), None]


async def test_a_blob_that_can_be_read_again_survives_a_cut(proxy: Proxy, here: Here) -> None:
    data = noise(30_000_000, 5)
    digest = digest_of(data)

    @asynccontextmanager
    async def open_at(offset: int) -> AsyncIterator[Chunks]:
        async def parts() -> AsyncIterator[bytes]:
            for at in range(offset, len(data), 2**20):
                if at > 15_000_000 and proxy.cuts == 0:
                    proxy.cut()
                yield data[at : at + 2**20]

        yield parts()

    assert await here.store.send(digest, open_at) is True
    assert proxy.cuts == 1
    assert await read(here.store, digest) == data


async def test_action_results_go_there_and_come_back(here: Here) -> None:
    action = digest_of(b"action")
    assert await here.index.get_action_result(action) is None
    value = reapi.ActionResult(exit_code=3, stdout_raw=b"said").SerializeToString()
    await here.index.update_action_result(action, value)
    found = await here.index.get_action_result(action)
    assert found is not None
    assert reapi.ActionResult.FromString(found).stdout_raw == b"said"


async def test_assets_go_there_and_come_back(make: str, here: Here) -> None:
    data = noise(1000)
    root = directory({"file": digest_of(data)})
    await here.store.write_small([(digest_of(data), data), (digest_of(root), root)])
    assert await here.index.fetch_blob([URI]) is None
    assert await here.index.fetch_directory([URI]) is None
    if make == "buildgrid":
        with pytest.raises(Unsupported):
            await here.index.push_blob(asset.PushBlobRequest(uris=[URI]))
        return
    push = asset.PushBlobRequest(
        uris=[URI, "urn:weak"],
        blob_digest=message_of(digest_of(data)),
        references_directories=[message_of(digest_of(root))],
    )
    await here.index.push_blob(push)
    for uri in (URI, "urn:weak"):
        found = await here.index.fetch_blob(["urn:absent", uri])
        assert found is not None
        assert (found.uri, found.digest) == (uri, digest_of(data))
    await here.index.push_directory(
        asset.PushDirectoryRequest(uris=[URI], root_directory_digest=message_of(digest_of(root)))
    )
    tree = await here.index.fetch_directory([URI])
    assert tree is not None
    assert tree.digest == digest_of(root)


async def test_what_they_cannot_do_is_known(here: Here) -> None:
    known = await here.remote.capabilities()
    assert known.stated
    assert known.hashes_with(DigestFunction.SHA256)
    data = noise(100)
    blake = digest_of(data, DigestFunction.BLAKE3)
    if not known.hashes_with(DigestFunction.BLAKE3):
        assert await here.store.find_missing([blake]) == {blake}
    assert await here.index.get_reference("key") is None
    assert here.remote.describe()["unsupported"] == []  # one UNIMPLEMENTED says little
