"""Served Fetch and Push, and what their tests speak of."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2_grpc as asset_grpc
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.clock import ManualClock
from federation.core.digest import digest_of
from tests.services.calls import refused
from tests.services.conftest import Served
from tests.support.fakes import MemoryIndex, MemoryStore
from tests.support.messages import message_of

BAD = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
URI = "https://example.com/archive.tar"
ARTIFACT = "urn:fdc:buildstream.build:2020:artifact:project/element/"
SOURCE = "urn:fdc:buildstream.build:2020:source:"


def sri(algorithm: str, data: bytes) -> asset.Qualifier:
    text = base64.b64encode(hashlib.new(algorithm, data).digest()).decode()
    return asset.Qualifier(name="checksum.sri", value=f"{algorithm}-{text}")


def qualifiers(**pairs: str) -> list[asset.Qualifier]:
    return [asset.Qualifier(name=name, value=value) for name, value in pairs.items()]


class Assets:
    """Served Fetch and Push."""

    def __init__(
        self, served: Served, store: MemoryStore, index: MemoryIndex, clock: ManualClock
    ) -> None:
        self.served, self.store, self.index, self.clock = served, store, index, clock
        self.fetch = asset_grpc.FetchStub(served.channel)
        self.push = asset_grpc.PushStub(served.channel)

    def put(self, data: bytes) -> reapi.Digest:
        self.store.add(digest_of(data), data)
        return message_of(digest_of(data))

    async def push_blob(
        self, *uris: str, data: bytes = b"it", **fields: Any
    ) -> asset.PushBlobResponse:
        fields.setdefault("blob_digest", message_of(digest_of(data)))
        answer: asset.PushBlobResponse = await self.push.PushBlob(
            asset.PushBlobRequest(uris=uris, **fields)
        )
        return answer

    async def push_directory(
        self, *uris: str, data: bytes = b"", **fields: Any
    ) -> asset.PushDirectoryResponse:
        fields.setdefault("root_directory_digest", message_of(digest_of(data)))
        answer: asset.PushDirectoryResponse = await self.push.PushDirectory(
            asset.PushDirectoryRequest(uris=uris, **fields)
        )
        return answer

    async def fetch_blob(self, *uris: str, **fields: Any) -> asset.FetchBlobResponse:
        answer: asset.FetchBlobResponse = await self.fetch.FetchBlob(
            asset.FetchBlobRequest(uris=uris, **fields)
        )
        return answer

    async def fetch_directory(self, *uris: str, **fields: Any) -> asset.FetchDirectoryResponse:
        answer: asset.FetchDirectoryResponse = await self.fetch.FetchDirectory(
            asset.FetchDirectoryRequest(uris=uris, **fields)
        )
        return answer

    async def hidden(self, *uris: str, **fields: Any) -> None:
        await refused(self.fetch_blob(*uris, **fields), NOT_FOUND)


MakeAssets = Callable[..., Awaitable[Assets]]
