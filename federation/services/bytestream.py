"""google.bytestream.ByteStream: large blobs, one in each call."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.memory_budget import MemoryBudget
from federation.core.store import LocalStore
from federation.observability.limit_hits import LimitHits
from federation.observability.metrics import Metrics
from federation.services.bytestream_read import ReadCalls
from federation.services.bytestream_write import WriteCalls
from federation.services.cpu_pool import Compute
from federation.services.method import SMALL_REQUEST, ClientStream, Method, ServerStream, Unary
from federation.services.uploads import Uploads


class ByteStreamService:
    """Read, Write and QueryWriteStatus. Listeners share one, and with it the open uploads."""

    name = "google.bytestream.ByteStream"

    def __init__(
        self,
        store: LocalStore,
        limits: LimitsConfig,
        clock: Clock,
        metrics: Metrics,
        budget: MemoryBudget,
        compute: Compute,
        *,
        alone: bool = True,
        quota_bytes: Callable[[], int] | None = None,
        hits: LimitHits | None = None,
    ) -> None:
        """Take what the calls work on.

        alone False: other processes take calls of these clients. quota_bytes, hits: see Uploads.
        """
        self._uploads = Uploads(store, limits, metrics, budget, compute, quota_bytes, hits)
        self._read = ReadCalls(store, clock, metrics, budget, compute)
        self._write = WriteCalls(store, self._uploads, limits, clock, metrics, alone=alone)

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {
            "Read": ServerStream(self._read.read, paced=True, request_max=SMALL_REQUEST),
            "Write": ClientStream(self._write.write, writes=True),
            "QueryWriteStatus": Unary(self._write.query, request_max=SMALL_REQUEST),
        }

    async def close(self) -> None:
        """Drop the uploads that wait to be resumed; call it when the servers have stopped."""
        await self._uploads.close()
