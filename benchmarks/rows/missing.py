"""FindMissingBlobs over lists of which every second blob is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle

from benchmarks import payloads
from benchmarks.base import CallRow, RowSpec
from benchmarks.link import CAS, expect
from benchmarks.process import Server
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2

_LISTS = 4  # different ones, asked in turn


class FindMissing(CallRow):
    """Lists of count digests."""

    def __init__(self, server: Server, count: int) -> None:
        super().__init__(server)
        self._count = count

    def set_up(self) -> None:
        """See CallRow."""
        call = self.link.unary(CAS, "FindMissingBlobs")
        self._calls = []
        for number in range(_LISTS):
            blobs = [payloads.blob(f"{number}/{i}", 100) for i in range(self._count)]
            digests = [payloads.digest_of(data) for data in blobs]
            self.link.upload(blobs[1::2])
            request = payloads.find_missing(digests)
            answer = re_pb2.FindMissingBlobsResponse.FromString(call(request))
            missing = {digest.hash for digest in answer.missing_blob_digests}
            expect(missing == {digest.hash for digest in digests[::2]}, "wrong blobs are missing")
            self._calls.append(partial(call, request))

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        return cycle(self._calls)


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    del quick
    budgets = {1000: "≤ casd's CPU; aim half"}
    return [
        RowSpec(
            f"find-missing-{count}",
            f"FindMissing, {count:,} digest{'' if count == 1 else 's'}",
            partial(FindMissing, count=count),
            items=count,
            item="digest",
            budget=budgets.get(count, ""),
        )
        for count in (1, 100, 1000, 10_000)
    ]
