"""A real node with TLS whose listeners ask who calls, and clients that show something."""

# ruff: noqa: ARG005 - every attempt is given data, also those that need none

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset_pb
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi_pb
from federation._proto.buildstream.v2.buildstream_pb2 import (
    GetReferenceRequest,
    StatusRequest,
    UpdateReferenceRequest,
)
from federation._proto.buildstream.v2.buildstream_pb2_grpc import ReferenceStorageStub
from federation._proto.federation.v1 import (
    holdings_pb2,
    holdings_pb2_grpc,
    pins_pb2,
    pins_pb2_grpc,
    purges_pb2,
    purges_pb2_grpc,
)
from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.core.digest import digest_of
from federation.wire.holdings import name_of
from tests.support.certificates import Files, self_signed
from tests.support.process import Node
from tests.support.process_client import Client, action_result, code_of
from tests.support.process_client import message as digest_message

Attempt = Callable[[Client, bytes], object]


class Site:
    """A folder with a server's certificate, and listeners to describe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = self_signed(folder)
        self.listeners: list[dict[str, Any]] = []

    def listen(
        self, *, push: bool = True, auth: Mapping[str, Any] | None = None, **tls: Path
    ) -> None:
        """Add a TLS listener; tls: client_certs=, peer_certs=, client_ca=."""
        files = {name.replace("_", "-"): str(path) for name, path in tls.items()}
        pair = {"server-cert": str(self.server.certificate), "server-key": str(self.server.key)}
        listener: dict[str, Any] = {
            "address": "127.0.0.1:0",
            "push": push,
            "tls": {**pair, **files},
        }
        if auth is not None:
            listener["auth"] = dict(auth)
        self.listeners.append(listener)

    def node(self, **more: Any) -> Node:
        """Describe the node; its log has one JSON object a line."""
        log = {"format": "json", "level": "info"}
        settings = {"listeners": self.listeners, "log": log, **more}
        return Node(self.folder / "data", settings)

    @contextmanager
    def connect(
        self,
        node: Node,
        at: int = 0,
        *,
        me: Files | None = None,
        token: str | None = None,
        instance: str = "",
        headers: Sequence[tuple[str, str]] = (),
    ) -> Iterator[Client]:
        """Connect to a listener with a certificate, a token, both or neither."""
        key, chain = (me.key.read_bytes(), me.certificate.read_bytes()) if me else (None, None)
        trusted = self.server.certificate.read_bytes()
        credentials = grpc.ssl_channel_credentials(trusted, key, chain)
        shown = [*headers, *([("authorization", f"Bearer {token}")] if token else [])]
        address = f"localhost:{node.addresses[at].rpartition(':')[2]}"
        with Client(address, instance, credentials=credentials) as client:
            yield with_headers(client, shown) if shown else client


class _Headers(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]  # they take none at run time
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]
):
    """Adds headers to each call."""

    def __init__(self, headers: Sequence[tuple[str, str]]) -> None:
        self._headers = headers

    def _go_on(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), *self._headers]
        return continuation(details._replace(metadata=metadata), request)

    intercept_unary_unary: Any = _go_on
    intercept_unary_stream: Any = _go_on
    intercept_stream_unary: Any = _go_on


def with_headers(client: Client, headers: Sequence[tuple[str, str]]) -> Client:
    """Have each of the client's calls carry these headers."""
    client.use(grpc.intercept_channel(client.channel, _Headers(headers)))
    return client


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Return how a call that has to fail does: its code and its text."""
    with pytest.raises(grpc.RpcError) as refused:
        call()
    error: object = refused.value  # to the stubs' mind nothing can be both
    assert isinstance(error, grpc.Call)
    return code_of(refused.value), error.details() or ""


def _reference(client: Client) -> ReferenceStorageStub:
    return ReferenceStorageStub(client.channel)


WRITES: dict[str, Attempt] = {
    "google.bytestream.ByteStream/Write": lambda client, data: client.write(data),
    "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs": (
        lambda client, data: client.batch_update([data])
    ),
    "build.bazel.remote.execution.v2.ActionCache/UpdateActionResult": (
        lambda client, data: client.update_action_result(digest_of(data), action_result([]))
    ),
    "build.bazel.remote.asset.v1.Push/PushBlob": (
        lambda client, data: client.push_blob(f"urn:{len(data)}", digest_of(data))
    ),
    "build.bazel.remote.asset.v1.Push/PushDirectory": (
        lambda client, data: client.push.PushDirectory(
            asset_pb.PushDirectoryRequest(
                instance_name=client.instance,
                uris=["urn:d"],
                root_directory_digest=digest_message(digest_of(data)),
            )
        )
    ),
    "buildstream.v2.ReferenceStorage/UpdateReference": (
        lambda client, data: _reference(client).UpdateReference(
            UpdateReferenceRequest(
                instance_name=client.instance,
                keys=["p/e/k"],
                digest=digest_message(digest_of(data)),
            )
        )
    ),
}

READS: dict[str, Attempt] = {
    "google.bytestream.ByteStream/Read": lambda client, data: client.read(digest_of(data)),
    "google.bytestream.ByteStream/QueryWriteStatus": (
        lambda client, data: client.bytestream.QueryWriteStatus(
            bs.QueryWriteStatusRequest(resource_name=client.upload_name(digest_of(data)))
        )
    ),
    "build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs": (
        lambda client, data: client.find_missing([digest_of(data)])
    ),
    "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs": (
        lambda client, data: client.batch_read([digest_of(data)])
    ),
    "build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree": (
        lambda client, data: list(
            client.cas.GetTree(
                reapi_pb.GetTreeRequest(
                    instance_name=client.instance, root_digest=digest_message(digest_of(data))
                )
            )
        )
    ),
    "build.bazel.remote.execution.v2.ActionCache/GetActionResult": (
        lambda client, data: client.actions.GetActionResult(
            reapi_pb.GetActionResultRequest(
                instance_name=client.instance, action_digest=digest_message(digest_of(data))
            )
        )
    ),
    "build.bazel.remote.execution.v2.Capabilities/GetCapabilities": (
        lambda client, data: client.capabilities()
    ),
    "build.bazel.remote.asset.v1.Fetch/FetchBlob": (
        lambda client, data: client.fetch.FetchBlob(
            asset_pb.FetchBlobRequest(instance_name=client.instance, uris=["urn:x"])
        )
    ),
    "build.bazel.remote.asset.v1.Fetch/FetchDirectory": (
        lambda client, data: client.fetch.FetchDirectory(
            asset_pb.FetchDirectoryRequest(instance_name=client.instance, uris=["urn:x"])
        )
    ),
    "buildstream.v2.ReferenceStorage/GetReference": (
        lambda client, data: _reference(client).GetReference(
            GetReferenceRequest(instance_name=client.instance, key="p/e/k")
        )
    ),
    "buildstream.v2.ReferenceStorage/Status": (
        lambda client, data: _reference(client).Status(StatusRequest(instance_name=client.instance))
    ),
}

PEERS_ALONE: dict[str, Attempt] = {
    "federation.v1.Pins/Apply": (
        lambda client, data: pins_pb2_grpc.PinsStub(client.channel).Apply(
            pins_pb2.ApplyPinsRequest(instance_name=client.instance)
        )
    ),
    "federation.v1.Purges/Apply": (
        lambda client, data: purges_pb2_grpc.PurgesStub(client.channel).Apply(
            purges_pb2.ApplyPurgesRequest(instance_name=client.instance)
        )
    ),
    "federation.v1.Holdings/FindLacking": (
        lambda client, data: holdings_pb2_grpc.HoldingsStub(client.channel).FindLacking(
            holdings_pb2.FindLackingRequest(
                instance_name=client.instance, names=name_of(digest_of(data))
            )
        )
    ),
}
