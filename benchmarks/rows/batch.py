"""BatchUpdateBlobs and BatchReadBlobs of 1 KiB blobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, cycle

from benchmarks import payloads
from benchmarks.base import CallRow, RowSpec
from benchmarks.link import CAS, expect
from benchmarks.payloads import KIB
from benchmarks.process import Server
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2

_LISTS = 4  # different ones, read in turn


class BatchUpdate(CallRow):
    """Batches of blobs that are new each time."""

    def __init__(self, server: Server, blobs: int) -> None:
        super().__init__(server)
        self._blobs = blobs
        self._numbers = count()

    def set_up(self) -> None:
        """See CallRow."""
        self._update = self.link.unary(CAS, "BatchUpdateBlobs")
        answer = re_pb2.BatchUpdateBlobsResponse.FromString(self._update(self._next_request()))
        stored = sum(item.status.code == 0 for item in answer.responses)
        expect(stored == self._blobs, f"{stored} of {self._blobs} blobs were stored")

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        while True:
            yield partial(self._update, self._next_request())

    def _next_request(self) -> bytes:
        number = next(self._numbers)
        return payloads.batch_update(
            [payloads.blob(f"update/{number}/{i}", KIB) for i in range(self._blobs)]
        )


class BatchRead(CallRow):
    """Batches of blobs that are all held."""

    def __init__(self, server: Server, blobs: int) -> None:
        super().__init__(server)
        self._blobs = blobs

    def set_up(self) -> None:
        """See CallRow."""
        call = self.link.unary(CAS, "BatchReadBlobs")
        self._calls = []
        for number in range(_LISTS):
            blobs = [payloads.blob(f"{number}/{i}", KIB) for i in range(self._blobs)]
            self.link.upload(blobs)
            request = payloads.batch_read([payloads.digest_of(data) for data in blobs])
            answer = re_pb2.BatchReadBlobsResponse.FromString(call(request))
            came = {item.data for item in answer.responses}
            expect(came == set(blobs), "other blobs were read")
            self._calls.append(partial(call, request))

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        return cycle(self._calls)


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    del quick
    return [
        _row("BatchUpdate", BatchUpdate, 100),
        _row("BatchUpdate", BatchUpdate, 1000, "≥ 4x casd; aim 32,000 blobs/s"),
        _row("BatchRead", BatchRead, 100, "≤ 1/2 of casd's time; aim 0.5 ms"),
        _row("BatchRead", BatchRead, 1000),
    ]


def _row(method: str, kind: type[BatchUpdate | BatchRead], blobs: int, budget: str = "") -> RowSpec:
    return RowSpec(
        f"{method.lower().replace('batch', 'batch-')}-{blobs}",
        f"{method}, {blobs:,} x 1 KiB",
        partial(kind, blobs=blobs),
        items=blobs,
        item="blob",
        stores=kind is BatchUpdate,
        budget=budget,
    )
