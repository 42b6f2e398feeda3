"""Many clients that each do what BuildStream did in a recorded push and pull (benchmarks.record).

Each has blobs of its own, of the recorded sizes. The artifact that is pushed is a real message, but
the directories are bytes like any others, so that a server cannot walk from one to the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import grpc

from benchmarks import payloads
from benchmarks.base import CallRow, RowSpec
from benchmarks.crowd import Crowd
from benchmarks.link import BYTE_STREAM, CAPABILITIES, CAS, FETCH, PUSH, Link, expect
from benchmarks.process import Server
from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as ra_pb2
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from federation._proto.buildstream.v2 import artifact_pb2

_RECORDING = Path(__file__).parents[1] / "recorded.json"
_STAMP_BYTES = 12
_SERVICES = {"GetCapabilities": CAPABILITIES, "FetchBlob": FETCH, "PushBlob": PUSH}
_ORDINARY = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}  # recorded probes

Request = tuple[str, Any]  # method, and one serialised request or those of a Write


class Session:
    """The requests of one client, serialised."""

    def __init__(self, number: int, recording: dict[str, Any]) -> None:
        self._number = number
        self._sizes: list[int] = recording["sizes"]
        calls: list[tuple[str, list[int]]] = [*recording["push"], *recording["pull"]]
        pushed = [numbers[0] for method, numbers in calls if method == "PushBlob"]
        self._artifact = max(pushed, key=lambda at: self._sizes[at])
        self._blobs = [self._blob(at) for at in range(len(self._sizes))]
        self._digests = [payloads.digest_of(data) for data in self._blobs]
        self.requests = [self._request(method, numbers) for method, numbers in calls]
        self._blobs.clear()  # they are in the requests

    def _blob(self, at: int) -> bytes:
        size_bytes = self._sizes[at]
        stamp = self._number.to_bytes(_STAMP_BYTES // 2, "big") + at.to_bytes(6, "big")
        if at != self._artifact:
            return (stamp + _filling(size_bytes))[:size_bytes]
        artifact = artifact_pb2.Artifact(version=1, build_success=True, weak_key=stamp.hex())
        return artifact.SerializeToString()

    def _request(self, method: str, numbers: list[int]) -> Request:
        digests = [self._digests[at] for at in numbers]
        uris = [f"urn:fdc:buildstream.build:2020:artifact:many/files/{self._number:064x}"]
        if method == "Write":
            data = self._blobs[numbers[0]]
            return method, list(payloads.write(digests[0], payloads.split(data)))
        if method == "Read":
            return method, payloads.read(digests[0])
        made: dict[str, Callable[[], bytes]] = {
            "FindMissingBlobs": lambda: payloads.find_missing(digests),
            "BatchReadBlobs": lambda: payloads.batch_read(digests),
            "BatchUpdateBlobs": lambda: payloads.batch_update([self._blobs[at] for at in numbers]),
            "FetchBlob": lambda: ra_pb2.FetchBlobRequest(uris=uris).SerializeToString(),
            "PushBlob": lambda: (
                ra_pb2.PushBlobRequest(uris=uris, blob_digest=digests[0]).SerializeToString()
                if numbers[0] == self._artifact
                else b""
            ),
            "GetCapabilities": lambda: re_pb2.GetCapabilitiesRequest().SerializeToString(),
        }
        return method, made[method]()


def _filling(size_bytes: int) -> bytes:
    return payloads.large_blob(8 * payloads.MIB)[:size_bytes]


class Recorded(CallRow):
    """All clients at once, each through the whole session; new blobs each time."""

    def __init__(self, server: Server, clients: int) -> None:
        super().__init__(server)
        self._clients = clients
        self._recording = json.loads(_RECORDING.read_text())
        self._numbers = count()

    def set_up(self) -> None:
        """See CallRow."""
        self._crowd = Crowd(self.server.address, self._clients)
        session = Session(next(self._numbers), self._recording)
        _run(self._crowd.links[0], session.requests)
        artifact = re_pb2.BatchReadBlobsResponse.FromString(
            self.link.unary(CAS, "BatchReadBlobs")(_last(session, "BatchReadBlobs"))
        )
        expect(all(item.status.code == 0 for item in artifact.responses), "blobs are missing")

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        while True:
            work = [
                partial(_run, link, Session(next(self._numbers), self._recording).requests)
                for link in self._crowd.links
            ]
            yield partial(self._crowd.run, work)

    def close(self) -> None:
        """See CallRow."""
        if hasattr(self, "_crowd"):
            self._crowd.close()
        super().close()


def _run(link: Link, requests: Sequence[Request]) -> None:
    for method, request in requests:
        if method == "Write":
            link.write(request)
        elif method == "Read":
            for _ in link.stream(BYTE_STREAM, "Read")(request):
                pass
        else:
            _call(link.unary(_SERVICES.get(method, CAS), method), request)


def _call(call: Callable[[bytes], bytes], request: bytes) -> None:
    try:
        call(request)
    except grpc.RpcError as error:
        failed: object = error  # to the stubs' mind nothing can be both
        if not isinstance(failed, grpc.Call) or failed.code() not in _ORDINARY:
            raise


def _last(session: Session, method: str) -> Any:
    return [request for name, request in session.requests if name == method][-1]


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows; BuildGrid has no Remote Asset service."""
    recording = json.loads(_RECORDING.read_text())
    calls = len(recording["push"]) + len(recording["pull"])
    return [
        RowSpec(
            f"recorded-{clients}",
            f"Recorded push and pull, {clients} client{'s' if clients > 1 else ''}",
            partial(Recorded, clients=2 if quick else clients),
            items=calls * (2 if quick else clients),
            stores=True,
            servers=(
                "federation",
                "federation-http2",
                "casd",
                "federation-2",
                "federation-http2-2",
            ),
        )
        for clients in (1, 16, 64, 256)
    ]
