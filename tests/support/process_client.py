"""A small blocking client over the generated stubs, for tests against a real process."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

import grpc

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2_grpc as asset_grpc
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.build.bazel.remote.execution.v2 import (
    remote_execution_pb2_grpc as reapi_grpc,
)
from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation._proto.google.bytestream import bytestream_pb2_grpc as bs_grpc
from federation.core.digest import Digest, digest_of

CHUNK_BYTES = 2**20
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a restarted node must not inherit a channel's backoff
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_http_proxy", 0),
]


def message(digest: Digest) -> reapi.Digest:
    """The digest as the wire has it."""
    return reapi.Digest(hash=digest.hash_hex, size_bytes=digest.size_bytes)


def value(digest: reapi.Digest) -> Digest:
    """The digest as the tests have it (SHA-256)."""
    return Digest(bytes.fromhex(digest.hash), digest.size_bytes)


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The status code of a failed call."""
    call: object = error  # the stubs rule out an RpcError that is a Call
    assert isinstance(call, grpc.Call)
    code = call.code()
    assert isinstance(code, grpc.StatusCode)
    return code


def outcome(call: Callable[[], object]) -> grpc.StatusCode:
    """How a call ends: OK or the code that it fails with."""
    try:
        call()
    except grpc.RpcError as error:
        return code_of(error)
    return grpc.StatusCode.OK


class Client:
    """Calls one node; every call has a deadline, so a node that hangs fails the test."""

    def __init__(
        self,
        address: str,
        instance: str = "",
        timeout_s: float = 60,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.instance = instance
        self.timeout_s = timeout_s
        self._endings: list[Callable[[], object]] = []
        if credentials is None:
            self.use(grpc.insecure_channel(address, options=_OPTIONS))
        else:
            self.use(grpc.secure_channel(address, credentials, options=_OPTIONS))

    def use(self, channel: grpc.Channel) -> None:
        """Make every call through this channel from now on."""
        self.channel = channel
        self.cas = reapi_grpc.ContentAddressableStorageStub(self.channel)
        self.actions = reapi_grpc.ActionCacheStub(self.channel)
        self.capabilities_stub = reapi_grpc.CapabilitiesStub(self.channel)
        self.bytestream = bs_grpc.ByteStreamStub(self.channel)
        self.fetch = asset_grpc.FetchStub(self.channel)
        self.push = asset_grpc.PushStub(self.channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.channel.close()
        for ending in self._endings:
            ending()

    def at_close(self, ending: Callable[[], object]) -> None:
        """Have this called once the channel is closed, e.g. to let a paused upload's thread go."""
        self._endings.append(ending)

    # Blobs

    def find_missing(self, digests: Iterable[Digest]) -> set[Digest]:
        """FindMissingBlobs."""
        request = reapi.FindMissingBlobsRequest(
            instance_name=self.instance, blob_digests=[message(d) for d in digests]
        )
        answer = self.cas.FindMissingBlobs(request, timeout=self.timeout_s)
        return {value(d) for d in answer.missing_blob_digests}

    def batch_update(
        self, blobs: Sequence[bytes], digests: Sequence[Digest] | None = None
    ) -> list[grpc.StatusCode]:
        """BatchUpdateBlobs; the status code of each item, in the order asked."""
        names = digests or [digest_of(data) for data in blobs]
        request = reapi.BatchUpdateBlobsRequest(instance_name=self.instance)
        for name, data in zip(names, blobs, strict=True):
            request.requests.add(digest=message(name), data=data)
        answer = self.cas.BatchUpdateBlobs(request, timeout=self.timeout_s)
        codes = {value(item.digest): _status(item.status.code) for item in answer.responses}
        return [codes[name] for name in names]

    def batch_read(self, digests: Iterable[Digest]) -> dict[Digest, bytes]:
        """BatchReadBlobs; only the items that came with OK."""
        request = reapi.BatchReadBlobsRequest(
            instance_name=self.instance, digests=[message(d) for d in digests]
        )
        answer = self.cas.BatchReadBlobs(request, timeout=self.timeout_s)
        return {value(i.digest): i.data for i in answer.responses if i.status.code == 0}

    def upload_name(self, digest: Digest, upload: str | None = None) -> str:
        """A resource name to write the blob under."""
        return self._prefix() + (
            f"uploads/{upload or uuid.uuid4()}/blobs/{digest.hash_hex}/{digest.size_bytes}"
        )

    def write(
        self,
        data: bytes,
        digest: Digest | None = None,
        *,
        chunk_bytes: int = CHUNK_BYTES,
        name: str | None = None,
        offset: int = 0,
    ) -> int:
        """ByteStream.Write of the bytes from offset on; returns committed_size."""
        resource = name or self.upload_name(digest or digest_of(data))
        requests = write_requests(resource, data, chunk_bytes=chunk_bytes, offset=offset)
        return int(self.bytestream.Write(requests, timeout=self.timeout_s).committed_size)

    def write_status(self, name: str) -> tuple[int, bool]:
        """QueryWriteStatus: committed_size and complete."""
        request = bs.QueryWriteStatusRequest(resource_name=name)
        answer = self.bytestream.QueryWriteStatus(request, timeout=self.timeout_s)
        return int(answer.committed_size), bool(answer.complete)

    def read_chunks(self, digest: Digest, offset: int = 0, limit: int = 0) -> Iterator[bytes]:
        """ByteStream.Read, message by message."""
        request = bs.ReadRequest(
            resource_name=f"{self._prefix()}blobs/{digest.hash_hex}/{digest.size_bytes}",
            read_offset=offset,
            read_limit=limit,
        )
        for answer in self.bytestream.Read(request, timeout=self.timeout_s):
            yield answer.data

    def read(self, digest: Digest, offset: int = 0, limit: int = 0) -> bytes:
        """ByteStream.Read to its end."""
        return b"".join(self.read_chunks(digest, offset, limit))

    # Index

    def update_action_result(
        self, action: Digest, result: reapi.ActionResult
    ) -> reapi.ActionResult:
        """UpdateActionResult."""
        request = reapi.UpdateActionResultRequest(
            instance_name=self.instance, action_digest=message(action), action_result=result
        )
        answer: reapi.ActionResult = self.actions.UpdateActionResult(
            request, timeout=self.timeout_s
        )
        return answer

    def get_action_result(self, action: Digest) -> reapi.ActionResult | None:
        """GetActionResult; None for NOT_FOUND."""
        request = reapi.GetActionResultRequest(
            instance_name=self.instance, action_digest=message(action)
        )
        answer: reapi.ActionResult
        try:
            answer = self.actions.GetActionResult(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            if code_of(error) is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return answer

    def push_blob(self, uri: str, digest: Digest, references: Iterable[Digest] = ()) -> None:
        """PushBlob under one URI."""
        request = asset.PushBlobRequest(
            instance_name=self.instance,
            uris=[uri],
            blob_digest=message(digest),
            references_blobs=[message(d) for d in references],
        )
        self.push.PushBlob(request, timeout=self.timeout_s)

    def fetch_blob(self, uri: str) -> Digest | None:
        """FetchBlob by one URI; None for NOT_FOUND."""
        request = asset.FetchBlobRequest(instance_name=self.instance, uris=[uri])
        try:
            return value(self.fetch.FetchBlob(request, timeout=self.timeout_s).blob_digest)
        except grpc.RpcError as error:
            if code_of(error) is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    def capabilities(self) -> reapi.ServerCapabilities:
        """GetCapabilities."""
        request = reapi.GetCapabilitiesRequest(instance_name=self.instance)
        answer: reapi.ServerCapabilities = self.capabilities_stub.GetCapabilities(
            request, timeout=self.timeout_s
        )
        return answer

    def _prefix(self) -> str:
        return f"{self.instance}/" if self.instance else ""


def write_requests(
    name: str, data: bytes, *, chunk_bytes: int = CHUNK_BYTES, offset: int = 0
) -> Iterator[bs.WriteRequest]:
    """The messages of one upload: the name in the first, finish_write on the last."""
    if offset >= len(data):
        yield bs.WriteRequest(resource_name=name, write_offset=offset, finish_write=True)
    for at in range(offset, len(data), chunk_bytes):
        chunk = data[at : at + chunk_bytes]
        yield bs.WriteRequest(
            resource_name=name if at == offset else "",
            write_offset=at,
            data=chunk,
            finish_write=at + len(chunk) == len(data),
        )


def action_result(outputs: Iterable[tuple[str, Digest]], exit_code: int = 0) -> reapi.ActionResult:
    """An action result that names these output files."""
    files = [reapi.OutputFile(path=path, digest=message(digest)) for path, digest in outputs]
    return reapi.ActionResult(output_files=files, exit_code=exit_code)


def _status(number: int) -> grpc.StatusCode:
    return next(code for code in grpc.StatusCode if code.value[0] == number)
