from __future__ import annotations

import asyncio

import pytest

from federation._proto.buildstream.v2 import artifact_pb2, source_pb2
from federation.core.digest import EMPTY, digest_of
from tests.services.assets.served import ARTIFACT, NOT_FOUND, SOURCE, URI, Assets
from tests.services.calls import refused
from tests.support.messages import directory, message_of, tree


async def test_w37_missing_references_hide_an_asset_until_they_arrive(assets: Assets) -> None:
    child = directory({"f": digest_of(b"file")})
    root = directory({}, {"child": digest_of(child)})
    await assets.push_blob(
        URI,
        references_blobs=[message_of(digest_of(b"reference"))],
        references_directories=[message_of(digest_of(root))],
    )
    for data in (b"it", b"reference", root, child, b"file"):
        await assets.hidden(URI)
        assets.put(data)
    assert (await assets.fetch_blob(URI)).uri == URI


async def test_w35_an_asset_hides_while_a_referenced_file_is_gone(assets: Assets) -> None:
    root = assets.put(directory({"f": digest_of(b"file")}))
    assets.put(b"it"), assets.put(b"file")
    await assets.push_blob(URI, references_directories=[root])
    assert (await assets.fetch_blob(URI)).uri == URI
    assets.store.remove(digest_of(b"file"))
    await assets.hidden(URI)
    assets.put(b"file")
    assert (await assets.fetch_blob(URI)).uri == URI


@pytest.mark.parametrize("data", [b"hello, world", tree(directory({"f": EMPTY})), b"\xff"])
async def test_w32_a_directory_asset_whose_root_is_none_stays_hidden(
    assets: Assets, data: bytes
) -> None:
    assets.put(data)
    await assets.push_directory(URI, data=data)
    await refused(assets.fetch_directory(URI), NOT_FOUND)
    await assets.push_blob(URI, data=data)
    assert (await assets.fetch_blob(URI)).uri == URI


async def test_buildstream_pushes_an_artifact_and_finds_it_by_either_key(assets: Assets) -> None:
    files = assets.put(directory({"bin": digest_of(b"bin")}, {"empty": EMPTY}))
    proto = artifact_pb2.Artifact(
        version=2,
        files=files,
        low_diversity_meta=assets.put(b"low"),
        high_diversity_meta=assets.put(b"high"),
        buildtree=message_of(digest_of(b"never pushed")),
    )
    data = proto.SerializeToString()
    strong, weak = ARTIFACT + "a" * 64, ARTIFACT + "b" * 64
    await assets.hidden(strong, weak)
    assets.put(data)
    await assets.push_blob(
        strong,
        weak,
        data=data,
        references_blobs=[proto.low_diversity_meta, proto.high_diversity_meta],
        references_directories=[files],
    )
    await assets.hidden(strong)
    assets.put(b"bin")
    for uri in (strong, weak):
        found = await assets.fetch_blob(uri)
        assert (found.uri, found.blob_digest) == (uri, message_of(digest_of(data)))
        assert found.status.code == 0


async def test_an_artifact_counts_its_own_parts_though_the_push_named_none(assets: Assets) -> None:
    proto = artifact_pb2.Artifact(version=2, files=message_of(digest_of(b"\x1a\x03\x0a\x01a")))
    data = proto.SerializeToString()
    assets.put(data)
    await assets.push_blob(ARTIFACT + "k", data=data)
    await assets.hidden(ARTIFACT + "k")
    assets.put(b"\x1a\x03\x0a\x01a")  # a directory with one symlink
    assert (await assets.fetch_blob(ARTIFACT + "k")).uri == ARTIFACT + "k"


@pytest.mark.parametrize("uri", [ARTIFACT + "k", SOURCE + "k"])
@pytest.mark.parametrize("data", [b"", b"not a message", directory({"f": EMPTY})])
async def test_w32_what_is_no_artifact_or_source_is_hidden_behind_their_urns(
    assets: Assets, uri: str, data: bytes
) -> None:
    assets.put(data)
    await assets.push_blob(uri, data=data)
    await assets.hidden(uri)


async def test_buildstream_keeps_sources_as_blobs_and_as_directories(assets: Assets) -> None:
    root = assets.put(directory({"main.c": digest_of(b"int main;")}))
    data = source_pb2.Source(version=1, files=root).SerializeToString()
    assets.put(data)
    await assets.push_directory(SOURCE + "local/k", root_directory_digest=root)
    await assets.push_blob(SOURCE + "k", data=data, references_directories=[root])
    await refused(assets.fetch_directory(SOURCE + "local/k"), NOT_FOUND)
    await assets.hidden(SOURCE + "k")
    assets.put(b"int main;")
    assert (await assets.fetch_directory(SOURCE + "local/k")).root_directory_digest == root
    assert (await assets.fetch_blob(SOURCE + "k")).blob_digest == message_of(digest_of(data))


async def test_elements_without_sources_push_the_empty_directory_at_the_same_time(
    assets: Assets,
) -> None:
    data = source_pb2.Source(version=1, files=message_of(EMPTY)).SerializeToString()
    assets.put(data)
    references = [message_of(EMPTY)]
    pushes = [
        assets.push_blob(SOURCE + "k", data=data, references_directories=references)
        for _ in range(50)
    ]
    await asyncio.gather(*pushes)
    assert (await assets.fetch_blob(SOURCE + "k")).uri == SOURCE + "k"
    assert len(assets.index.entries) == 1
