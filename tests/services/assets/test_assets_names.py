from __future__ import annotations

import asyncio

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import EMPTY, DigestFunction, digest_of
from federation.core.index import EntryKind
from tests.services.assets.served import ARTIFACT, NOT_FOUND, URI, Assets, qualifiers
from tests.services.calls import refused
from tests.support.messages import directory, message_of


async def test_what_was_pushed_is_fetched(assets: Assets) -> None:
    digest = assets.put(b"it")
    assert await assets.push_blob(URI) == asset.PushBlobResponse()
    assert await assets.fetch_blob(URI) == asset.FetchBlobResponse(
        uri=URI, blob_digest=digest, digest_function=reapi.DigestFunction.SHA256
    )


async def test_a_directory_is_fetched_as_its_root(assets: Assets) -> None:
    root = assets.put(directory({"f": digest_of(b"f")}))
    assets.put(b"f")
    await assets.push_directory(URI, root_directory_digest=root)
    assert await assets.fetch_directory(URI) == asset.FetchDirectoryResponse(
        uri=URI, root_directory_digest=root, digest_function=reapi.DigestFunction.SHA256
    )


async def test_every_uri_of_a_push_becomes_an_entry(assets: Assets) -> None:
    assets.put(b"it")
    await assets.push_blob(ARTIFACT + "strong", "urn:weak", "urn:weak")
    assert len(assets.index.entries) == 2
    assert (await assets.fetch_blob("urn:weak")).uri == "urn:weak"


async def test_w38_the_first_uri_that_matches_answers_and_is_named(assets: Assets) -> None:
    assets.put(b"it"), assets.put(b"other")
    await assets.push_blob("urn:b")
    await assets.push_blob("urn:c", data=b"other")
    for uris in (("urn:a", "urn:b", "urn:c"), ("urn:b", "urn:c"), ("urn:b",)):
        assert (await assets.fetch_blob(*uris)).uri == "urn:b"
    assert (await assets.fetch_blob("urn:c", "urn:b")).uri == "urn:c"
    many = [f"urn:{n}" for n in range(100)]
    assert (await assets.fetch_blob(*many, "urn:c")).uri == "urn:c"


async def test_a_uri_that_cannot_be_served_does_not_hide_the_next(assets: Assets) -> None:
    assets.put(b"it")
    await assets.push_blob("urn:incomplete", data=b"not here")
    await assets.push_blob("urn:expired", expire_at=Timestamp(seconds=1))
    await assets.push_blob("urn:whole")
    found = await assets.fetch_blob("urn:incomplete", "urn:expired", "urn:whole")
    assert found.uri == "urn:whole"


async def test_the_last_push_of_a_name_wins(assets: Assets) -> None:
    assets.put(b"it"), assets.put(b"other")
    await assets.push_blob(URI)
    await assets.push_blob(URI, data=b"other")
    assert (await assets.fetch_blob(URI)).blob_digest == message_of(digest_of(b"other"))


async def test_w39_blobs_and_directories_under_one_uri_are_two_entries(assets: Assets) -> None:
    root = directory({"f": EMPTY})
    assets.put(b"it"), assets.put(root)
    await assets.push_blob(URI)
    await refused(assets.fetch_directory(URI), NOT_FOUND)
    await assets.push_directory(URI, data=root)
    assert (await assets.fetch_blob(URI)).blob_digest == message_of(digest_of(b"it"))
    found = await assets.fetch_directory(URI)
    assert found.root_directory_digest == message_of(digest_of(root))
    assert {key.kind for key in assets.index.entries} == {
        EntryKind.ASSET_BLOB,
        EntryKind.ASSET_DIRECTORY,
    }


async def test_instances_do_not_mix(assets: Assets) -> None:
    assets.put(b"it")
    await assets.push_blob(URI, instance_name="team/a")
    await assets.hidden(URI)
    await assets.hidden(URI, instance_name="team")
    assert (await assets.fetch_blob(URI, instance_name="team/a")).uri == URI


async def test_w28_digest_functions_do_not_mix(assets: Assets) -> None:
    assets.put(b"it")
    blake3 = digest_of(b"it", DigestFunction.BLAKE3)
    assets.store.add(blake3, b"it")
    await assets.push_blob(URI)
    await assets.hidden(URI, digest_function=DigestFunction.BLAKE3)
    await assets.push_blob(
        URI, blob_digest=message_of(blake3), digest_function=DigestFunction.BLAKE3
    )
    found = await assets.fetch_blob(URI, digest_function=DigestFunction.BLAKE3)
    assert found.blob_digest == message_of(blake3)
    assert found.digest_function == reapi.DigestFunction.BLAKE3
    for function in (0, DigestFunction.SHA256):
        found = await assets.fetch_blob(URI, digest_function=function)
        assert found.blob_digest == message_of(digest_of(b"it"))


async def test_what_is_stored_is_the_push_without_uris_and_instance(assets: Assets) -> None:
    expiry = Timestamp(seconds=2_000_000_000)
    digests = [message_of(digest_of(b"r"))]
    await assets.push_blob(
        URI,
        instance_name="main",
        expire_at=expiry,
        qualifiers=qualifiers(directory="d"),
        references_blobs=digests,
        digest_function=reapi.DigestFunction.SHA256,
    )
    (entry,) = assets.index.entries.values()
    assert (entry.label, entry.key.instance, entry.expires_at_s) == (URI, "main", 2e9)
    assert asset.PushBlobRequest.FromString(entry.value) == asset.PushBlobRequest(
        expire_at=expiry,
        blob_digest=message_of(digest_of(b"it")),
        qualifiers=qualifiers(directory="d"),
        references_blobs=digests,
        digest_function=reapi.DigestFunction.SHA256,
    )


@pytest.mark.parametrize("scheme", ["http", "https", "file", "bytestream", "ftp"])
async def test_a23_a_url_that_a_client_names_is_never_opened(assets: Assets, scheme: str) -> None:
    connected = asyncio.Event()

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        writer.close()

    stub = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = stub.sockets[0].getsockname()[1]
    uri = f"{scheme}://127.0.0.1:{port}/etc/passwd"
    await assets.hidden(uri)
    await refused(assets.fetch_directory(uri), NOT_FOUND)
    assert not connected.is_set()
    (await asyncio.open_connection("127.0.0.1", port))[1].close()
    async with asyncio.timeout(60):
        await connected.wait()  # so the stub does notice
    stub.close()
    await stub.wait_closed()


async def test_hits_and_misses_are_counted(assets: Assets) -> None:
    assets.put(b"it")
    await assets.hidden(URI)
    await assets.push_blob(URI)
    await assets.fetch_blob("urn:a", URI)
    lookups = "federation_lookups_total"
    assert assets.served.counted(lookups, kind="asset", result="miss") == 1
    assert assets.served.counted(lookups, kind="asset", result="hit") == 1
