from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import digest_of
from federation.core.errors import StorageFull
from federation.core.index import Entry
from tests.services.assets.served import BAD, URI, Assets, MakeAssets
from tests.services.calls import refused
from tests.services.test_action_cache import BAD_DIGESTS
from tests.support.fakes import MemoryIndex
from tests.support.messages import message_of


async def test_buildstream_connects_only_if_a_request_without_uri_is_an_invalid_argument(
    assets: Assets,
) -> None:
    for call in (
        assets.fetch_blob(),
        assets.fetch_blob(instance_name="main", digest_function=99, timeout=Duration(seconds=-1)),
        assets.fetch_directory(),
        assets.push_blob(blob_digest=None),
        assets.push_blob(),
        assets.push_directory(root_directory_digest=None),
    ):
        assert "URI" in await refused(call, BAD)
    await refused(assets.fetch.FetchBlob(asset.FetchBlobRequest()), BAD)
    await refused(assets.push.PushBlob(asset.PushBlobRequest()), BAD)


async def test_a01_a_pull_listener_refuses_every_push_the_empty_one_too(
    make_assets: MakeAssets,
) -> None:
    assets = await make_assets(may_push=False)
    denied = grpc.StatusCode.PERMISSION_DENIED
    await refused(assets.push.PushBlob(asset.PushBlobRequest()), denied)
    await refused(assets.push.PushDirectory(asset.PushDirectoryRequest()), denied)
    await refused(assets.push_blob(URI), denied)
    await refused(assets.push_directory(URI), denied)
    await refused(assets.fetch_blob(), BAD)
    assert not assets.index.entries


@pytest.mark.parametrize("function", [2, 3, 99])
async def test_w28_an_unsupported_digest_function_is_refused(assets: Assets, function: int) -> None:
    await refused(assets.fetch_blob(URI, digest_function=function), BAD)
    await refused(assets.fetch_directory(URI, digest_function=function), BAD)
    await refused(assets.push_blob(URI, digest_function=function), BAD)
    await refused(assets.push_directory(URI, digest_function=function), BAD)


@pytest.mark.parametrize(
    "uris",
    [
        ("",),
        ("x" * 9000,),
        ("urn:a\n",),
        ("urn:\0",),
        ("urn:ok", ""),
        (URI,) * 1001,
        (URI,) * 10_000,
    ],
)
async def test_w37_unusable_uris_are_refused(assets: Assets, uris: tuple[str, ...]) -> None:
    await refused(assets.fetch_blob(*uris), BAD)
    await refused(assets.fetch_directory(*uris), BAD)
    await refused(assets.push_blob(*uris), BAD)
    await refused(assets.push_directory(*uris), BAD)
    assert not assets.index.entries


@pytest.mark.parametrize("digest", [None, *BAD_DIGESTS])
async def test_w37_a_digest_that_is_unset_or_malformed_is_refused(
    assets: Assets, digest: reapi.Digest | None
) -> None:
    await refused(assets.push_blob(URI, blob_digest=digest), BAD)
    await refused(assets.push_directory(URI, root_directory_digest=digest), BAD)
    if digest is not None:
        for references in ("references_blobs", "references_directories"):
            fields: dict[str, Any] = {references: [digest]}
            await refused(assets.push_blob(URI, **fields), BAD)
            await refused(assets.push_directory(URI, **fields), BAD)
    assert not assets.index.entries


@pytest.mark.parametrize("instance", ["blobs", "../x", "a//b", "x" * 2000])
async def test_w17_an_illegal_instance_name_is_refused(assets: Assets, instance: str) -> None:
    await refused(assets.fetch_blob(URI, instance_name=instance), BAD)
    await refused(assets.push_blob(URI, instance_name=instance), BAD)


async def test_a_push_that_would_store_too_much_over_its_uris_is_refused(assets: Assets) -> None:
    references = [message_of(digest_of(b"r"))] * 10_000
    uris = [f"urn:{n}" for n in range(1000)]
    await refused(assets.push_blob(*uris, references_blobs=references), BAD)
    await assets.push_blob(*uris[:10], references_blobs=references)
    assert len(assets.index.entries) == 10


async def test_a_full_store_refuses_a_push_so_that_a_client_sees_it(
    make_assets: MakeAssets,
) -> None:
    class FullIndex(MemoryIndex):
        async def put(self, entries: Sequence[Entry], **provenance: object) -> None:
            raise StorageFull("the quota is used up")

    assets = await make_assets(index=FullIndex())
    await refused(assets.push_blob(URI), grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_w33_broken_messages_are_refused_and_the_server_goes_on(assets: Assets) -> None:
    for method in (
        "Fetch/FetchBlob",
        "Fetch/FetchDirectory",
        "Push/PushBlob",
        "Push/PushDirectory",
    ):
        call = assets.served.channel.unary_unary(
            f"/build.bazel.remote.asset.v1.{method}", None, None
        )
        for raw in (b"\x0b" * 10_000, b"\x08" + b"\xff" * 11, b"\x22\x7f", b"\x22\x01\xff"):
            await refused(call(raw), BAD)
    await assets.hidden(URI)
