"""Records which calls BuildStream makes: `python -m benchmarks.record > benchmarks/recorded.json`.

A proxy in front of a node notes each call of a real `bst artifact push` and of a real pull by a
user who has nothing: its method and, by number, the blobs that it names. What is kept are the
order, the kinds and the sizes, not the bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from benchmarks.project import ELEMENT, Project, User
from benchmarks.servers import Node, free_port
from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as ra_pb2
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from federation._proto.google.bytestream import bytestream_pb2

_FILES = 150  # enough for several batches; it is replayed hundreds of times
_STREAMS = {"Read": "unary_stream", "GetTree": "unary_stream", "Write": "stream_unary"}


class Recorder(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Passes every call on as it is, and notes it."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self.sizes: list[int] = []
        self.calls: list[tuple[str, list[int]]] = []

    def service(self, details: Any) -> grpc.RpcMethodHandler[bytes, bytes]:
        """See grpc.GenericRpcHandler."""
        path = details.method
        method = path.rpartition("/")[2]
        kind = _STREAMS.get(method, "unary_unary")
        call = getattr(self._channel, kind)(path)

        def serve(request: Any, context: grpc.ServicerContext) -> Any:
            if kind == "stream_unary":
                request = self._first_noted(method, request)
            else:
                self._note(method, request)
            try:
                return call(request)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details() or "")

        handler: grpc.RpcMethodHandler[bytes, bytes] = getattr(grpc, f"{kind}_rpc_method_handler")(
            serve
        )
        return handler

    def _first_noted(self, method: str, requests: Iterable[bytes]) -> Iterator[bytes]:
        for at, request in enumerate(requests):
            if at == 0:
                self._note(method, request)
            yield request

    def _note(self, method: str, request: bytes) -> None:
        with self._lock:
            numbers = [self._number(*each) for each in _named(method, request)]
            self.calls.append((method, numbers))

    def _number(self, name: str, size_bytes: int) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.sizes)
            self.sizes.append(size_bytes)
        return self._numbers[name]


def _named(method: str, request: bytes) -> list[tuple[str, int]]:
    """Return hash and size of each blob that a call is about."""
    if method in {"Read", "Write"}:
        kind = bytestream_pb2.ReadRequest if method == "Read" else bytestream_pb2.WriteRequest
        _, _, behind = kind.FromString(request).resource_name.partition("blobs/")
        name, size_text, *_ = behind.split("/")
        return [(name, int(size_text))]
    digests: dict[str, Callable[[], Iterable[re_pb2.Digest]]] = {
        "FindMissingBlobs": lambda: re_pb2.FindMissingBlobsRequest.FromString(request).blob_digests,
        "BatchReadBlobs": lambda: re_pb2.BatchReadBlobsRequest.FromString(request).digests,
        "BatchUpdateBlobs": lambda: [
            item.digest for item in re_pb2.BatchUpdateBlobsRequest.FromString(request).requests
        ],
        "GetTree": lambda: [re_pb2.GetTreeRequest.FromString(request).root_digest],
        "PushBlob": lambda: [ra_pb2.PushBlobRequest.FromString(request).blob_digest],
    }
    found = digests[method]() if method in digests else []
    return [(digest.hash, digest.size_bytes) for digest in found]


def main() -> None:
    """Print the recording."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        project = Project(home / "project", _FILES)
        builder, reader = User(home / "builder", project), User(home / "reader", project)
        builder.bst(None, "build", ELEMENT)
        node = Node(home / "node")
        node.start()
        recorder = Recorder(node.address)
        server = grpc.server(ThreadPoolExecutor(32), handlers=[recorder])
        address = f"127.0.0.1:{free_port()}"
        server.add_insecure_port(address)
        server.start()
        builder.bst(address, "artifact", "push", ELEMENT)
        pushed = len(recorder.calls)
        reader.bst(address, "artifact", "pull", ELEMENT)
        server.stop(None)
        node.stop()
    calls = recorder.calls
    found = {"sizes": recorder.sizes, "push": calls[:pushed], "pull": calls[pushed:]}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
