"""ByteStream.Read: a blob, or a part of it, plain or as zstd."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext
from typing import NamedTuple

from federation.clock import Clock
from federation.digest import Digest
from federation.errors import BlobNotFound, InvalidRequest, OffsetOutside
from federation.services.call import Call
from federation.services.compute import Compute
from federation.services.memory_budget import MemoryBudget
from federation.status import Metrics
from federation.store import Chunks, Store
from federation.wire.bytestream_codec import ReadRequest, decode_read_request, encode_read_response
from federation.wire.chunk_sizer import LARGE_BYTES, SMALL_BYTES, ChunkSizer
from federation.wire.resource_name import ReadName, parse_read
from federation.wire.zstd import Encoder

_HELD_CHUNKS = 3  # of the one being sent: as it was read, as message, and inside grpc
# The windows of a connection take megabytes at once from a reader that is slow behind them. Until
# a reader has taken more than those hold, it shares this with all others in the same state, and
# two hundred slow ones together cost no more than it.
_ON_TRIAL_BYTES = 16 * 2**20
_PROVEN_BYTES = 32 * 2**20


class ReadCalls:
    """Read over a store."""

    def __init__(
        self, store: Store, clock: Clock, metrics: Metrics, budget: MemoryBudget, compute: Compute
    ) -> None:
        self._store = store
        self._clock = clock
        self._budgets = _Budgets(MemoryBudget(_ON_TRIAL_BYTES, part_of=budget), budget)
        self._compute = compute
        self._bytes_out = metrics.bytes.labels(direction="out")
        self._hits = metrics.lookups.labels(kind="blob", result="hit")
        self._misses = metrics.lookups.labels(kind="blob", result="miss")

    async def read(self, request: bytes, call: Call) -> AsyncGenerator[bytes, None]:
        """Send the bytes asked for; a blob that is not held is NOT_FOUND before any."""
        asked = decode_read_request(request)
        name = parse_read(asked.resource_name)
        call.check_pull(name.instance)
        limit = _check(asked, name)
        left_bytes = name.digest.size_bytes - asked.read_offset
        size_bytes = left_bytes if limit is None else min(limit, left_bytes)
        pace = _Pace(self._clock, self._budgets, size_bytes)
        try:
            opened = self._store.open_read(
                name.digest, offset=asked.read_offset, limit=limit, next_bytes=pace.next_bytes
            )
            async with opened as chunks:
                self._hits.inc()
                packed = aclosing(self._compress(chunks)) if name.compressed else None
                async with packed or nullcontext(chunks) as sent:
                    async for data in sent:
                        sent_bytes, handed_on = len(data), [encode_read_response(data)]
                        del data  # what is handed on is a copy; neither is kept for the next wait
                        pace.begin()
                        yield handed_on.pop()
                        pace.sent(sent_bytes)
                        self._bytes_out.inc(sent_bytes)
        except BlobNotFound:
            self._misses.inc()
            raise
        finally:
            pace.close()

    async def _compress(self, chunks: Chunks) -> AsyncGenerator[bytes, None]:
        encoder = Encoder()
        async for chunk in chunks:
            if data := await self._compute.run(len(chunk), encoder.encode, chunk):
                yield data
        yield encoder.finish()


def _check(asked: ReadRequest, name: ReadName) -> int | None:
    """Return the limit, None for none. Raises InvalidRequest, OffsetOutside."""
    digest: Digest = name.digest
    if name.compressed and asked.read_limit:
        raise InvalidRequest("read_limit with compressed-blobs (REAPI: it must be 0)")
    if asked.read_limit < 0:
        raise InvalidRequest(f"read_limit {asked.read_limit} is negative")
    if not 0 <= asked.read_offset <= digest.size_bytes:
        raise OffsetOutside(digest, asked.read_offset)
    return asked.read_limit or None


class _Budgets(NamedTuple):
    """What readers take large chunks from, before and after they have shown to be fast."""

    on_trial: MemoryBudget
    proven: MemoryBudget


class _Pace:
    """One reader's chunk size, and its share of a budget for more than small chunks."""

    def __init__(self, clock: Clock, budgets: _Budgets, size_bytes: int) -> None:
        self._clock = clock
        self._budgets = budgets
        self._size_bytes = size_bytes
        self._sizer = ChunkSizer.for_read(size_bytes)
        # What goes out as one chunk has no time to show anything.
        self._budget = budgets.proven if size_bytes <= LARGE_BYTES else budgets.on_trial
        self._taken_bytes = 0
        self._sent_bytes = 0
        self._begun_s = 0.0

    def next_bytes(self) -> int:
        """See Store.open_read."""
        wanted = min(self._sizer.chunk_bytes, self._size_bytes)
        if wanted <= SMALL_BYTES:
            self.close()
            return SMALL_BYTES
        if self._sent_bytes >= _PROVEN_BYTES and self._budget is self._budgets.on_trial:
            self.close()
            self._budget = self._budgets.proven
        more = _HELD_CHUNKS * wanted - self._taken_bytes
        if more > 0:
            if not self._budget.try_take(more):
                return max(SMALL_BYTES, self._taken_bytes // _HELD_CHUNKS)
            self._taken_bytes += more
        return wanted

    def begin(self) -> None:
        """A chunk goes out."""
        self._begun_s = self._clock.monotonic_s()

    def sent(self, size_bytes: int) -> None:
        """The reader took it."""
        self._sent_bytes += size_bytes
        self._sizer.wrote(size_bytes, self._clock.monotonic_s() - self._begun_s)

    def close(self) -> None:
        """Give back what was taken from the budget."""
        self._budget.give_back(self._taken_bytes)
        self._taken_bytes = 0
