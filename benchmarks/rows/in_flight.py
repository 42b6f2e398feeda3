"""Small calls, 64 in flight on one connection: what each costs a server that does not rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice, repeat
from typing import Any

import grpc

from benchmarks import payloads
from benchmarks.base import CallRow, RowSpec
from benchmarks.link import ACTION_CACHE, BYTE_STREAM, CAPABILITIES, CAS, expect
from benchmarks.payloads import KIB
from benchmarks.process import Server
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from federation._proto.google.bytestream import bytestream_pb2

_IN_FLIGHT = 64
_BLOBS = 16  # different ones, used in turn


class InFlight(CallRow):
    """Unary calls; a sample is from the first one's start to the last one's end."""

    def __init__(self, server: Server, service: str, method: str) -> None:
        super().__init__(server)
        self._service, self._method = service, method

    def set_up(self) -> None:
        """See CallRow."""
        self._begin = self.beginning(self._service, self._method)
        self._requests = self.requests()

    def beginning(self, service: str, method: str) -> Callable[[bytes], Any]:
        """Return what begins a call and returns it."""
        return self.link.future(service, method)

    def requests(self) -> Iterator[bytes]:
        """Yield requests without end."""
        return repeat(b"")

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        while True:
            yield partial(self._together, list(islice(self._requests, _IN_FLIGHT)))

    def _together(self, requests: list[bytes]) -> None:
        for running in [self._begin(request) for request in requests]:
            self.judge(running)

    def judge(self, running: Any) -> None:
        """Wait for the end of a call, and fail unless it is as it should be."""
        running.result()


class FindMissingInFlight(InFlight):
    """Each asks for one digest, whose blob is held or not."""

    def __init__(self, server: Server, *, is_held: bool) -> None:
        super().__init__(server, CAS, "FindMissingBlobs")
        self._is_held = is_held

    def requests(self) -> Iterator[bytes]:
        """See InFlight."""
        if not self._is_held:
            return iter(_find_absent, None)
        blobs = [payloads.blob(f"in-flight/{i}", 64 * KIB) for i in range(_BLOBS)]
        self.link.upload(blobs)
        return cycle([payloads.find_missing([payloads.digest_of(data)]) for data in blobs])

    def judge(self, running: grpc.Future[bytes]) -> None:
        """See InFlight."""
        expect(bool(running.result()) is not self._is_held, "a blob is missing, or is not")


class ActionResultMissInFlight(InFlight):
    """Each asks for another action, of which no result is held."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, ACTION_CACHE, "GetActionResult")

    def requests(self) -> Iterator[bytes]:
        """See InFlight."""
        return iter(_ask_for_absent, None)

    def judge(self, running: grpc.Future[bytes]) -> None:
        """See InFlight."""
        error: object = running.exception()  # to the stubs' mind none is a call
        is_miss = isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.NOT_FOUND
        expect(is_miss, f"not a miss: {error}")


class ReadInFlight(InFlight):
    """Each reads a whole blob."""

    def __init__(self, server: Server, size_bytes: int) -> None:
        super().__init__(server, BYTE_STREAM, "Read")
        self._size_bytes = size_bytes

    def beginning(self, service: str, method: str) -> Callable[[bytes], Iterator[bytes]]:
        """See InFlight."""
        return self.link.stream(service, method)

    def requests(self) -> Iterator[bytes]:
        """See InFlight."""
        blobs = [payloads.blob(f"in-flight/{i}", self._size_bytes) for i in range(_BLOBS)]
        self.link.upload(blobs)
        requests = [payloads.read(payloads.digest_of(data)) for data in blobs]
        for data, request in zip(blobs, requests, strict=True):
            (answer,) = self._begin(request)
            expect(bytestream_pb2.ReadResponse.FromString(answer).data == data, "other bytes came")
        return cycle(requests)

    def judge(self, running: Iterator[bytes]) -> None:
        """See InFlight."""
        expect(sum(map(len, running)) >= self._size_bytes, "too few bytes came")


def _absent() -> re_pb2.Digest:
    return re_pb2.Digest(hash=os.urandom(32).hex(), size_bytes=100)


def _find_absent() -> bytes:
    return payloads.find_missing([_absent()])


def _ask_for_absent() -> bytes:
    return re_pb2.GetActionResultRequest(action_digest=_absent()).SerializeToString()


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    del quick
    made: list[tuple[str, str, Callable[[Server], CallRow]]] = [
        (
            "capabilities",
            "GetCapabilities",
            partial(InFlight, service=CAPABILITIES, method="GetCapabilities"),
        ),
        ("find-held", "FindMissing, held", partial(FindMissingInFlight, is_held=True)),
        ("find-absent", "FindMissing, absent", partial(FindMissingInFlight, is_held=False)),
        ("action-result-miss", "GetActionResult, miss", ActionResultMissInFlight),
        ("read-1KiB", "Read 1 KiB", partial(ReadInFlight, size_bytes=KIB)),
        ("read-64KiB", "Read 64 KiB", partial(ReadInFlight, size_bytes=64 * KIB)),
    ]
    return [
        RowSpec(
            f"in-flight-{name}",
            f"{title}, {_IN_FLIGHT} in flight",
            make,
            items=_IN_FLIGHT,
            budget="≤ casd's CPU" if name != "read-64KiB" else "≤ 1.3x casd's CPU",
        )
        for name, title, make in made
    ]
