"""The client against the services of a node of ours: what one writes, the other reads."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import DigestFunction, digest_of
from federation.remote.failures import RequestRefused
from tests.remote.blobs import chunks, noise, read, text
from tests.remote.served import Here, connected, serving
from tests.support.fakes import MemoryStore
from tests.support.messages import directory, message_of

URI = "urn:fdc:buildstream.build:2020:artifact:project/element/key"


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    async with serving(MemoryStore()) as address, connected(address) as client:
        yield client


async def test_its_capabilities_are_used(here: Here) -> None:
    known = await here.remote.capabilities()
    assert known.stated
    assert known.zstd
    assert known.zstd_update
    assert known.functions == frozenset(DigestFunction)
    data = text(1_000_000)
    digest = digest_of(data)
    await here.store.write(digest, chunks(data))
    assert await read(here.store, digest) == data
    for direction in ("in", "out"):
        assert here.counted("federation_remote_bytes_total", direction=direction) < 100_000


async def test_an_asset_is_found_with_all_that_was_pushed(here: Here) -> None:
    data = noise(1000)
    root = directory({"file": digest_of(data)})
    blobs = [(digest_of(data), data), (digest_of(root), root)]
    assert await here.store.write_small(blobs) == [None, None]
    push = asset.PushBlobRequest(
        uris=[URI, "urn:weak"],
        blob_digest=message_of(digest_of(data)),
        references_directories=[message_of(digest_of(root))],
    )
    push.qualifiers.add(name="vcs.commit", value="abc")
    push.expire_at.FromSeconds(4_000_000_000)
    assert await here.index.fetch_blob([URI], {"vcs.commit": "abc"}) is None
    await here.index.push_blob(push)
    assert await here.index.fetch_blob([URI]) is None
    found = await here.index.fetch_blob(["urn:other", "urn:weak"], {"vcs.commit": "abc"})
    assert found is not None
    assert (found.uri, found.digest) == ("urn:weak", digest_of(data))
    assert found.expires_at_s == 4_000_000_000.0
    assert found.qualifiers == {"vcs.commit": "abc"}
    await here.index.push_directory(
        asset.PushDirectoryRequest(uris=[URI], root_directory_digest=message_of(digest_of(root)))
    )
    tree = await here.index.fetch_directory([URI])
    assert tree is not None
    assert tree.digest == digest_of(root)


async def test_what_it_refuses_is_refused_for_good(here: Here) -> None:
    with pytest.raises(RequestRefused):
        await here.index.push_blob(asset.PushBlobRequest())
    with pytest.raises(RequestRefused):
        await here.index.get_action_result(digest_of(b"x")._replace(size_bytes=-1))


async def test_an_action_result_comes_back(here: Here) -> None:
    output = noise(100)
    await here.store.write_small([(digest_of(output), output)])
    result = reapi.ActionResult(stdout_digest=message_of(digest_of(output)))
    for function in DigestFunction:
        action = digest_of(b"action", function)
        assert await here.index.get_action_result(action, "some/instance") is None
        if function is DigestFunction.SHA256:
            value = result.SerializeToString()
            await here.index.update_action_result(action, value, "some/instance")
            assert await here.index.get_action_result(action, "some/instance") == value
    assert await here.index.get_action_result(digest_of(b"action"), "another") is None
    assert await here.index.get_reference("key") is None
