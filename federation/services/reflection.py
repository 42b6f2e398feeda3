"""gRPC server reflection: how tools like grpcurl learn which services there are.

The library that answers is imported at the first call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from functools import cached_property
from typing import Any

from google.protobuf import descriptor_pool

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2
from federation._proto.buildstream.v2 import buildstream_pb2
from federation._proto.federation.v1 import holdings_pb2, pins_pb2, purges_pb2
from federation._proto.google.bytestream import bytestream_pb2
from federation.config.model import LimitsConfig
from federation.services.call import Call
from federation.services.health import HEALTH
from federation.services.method import BothStreams, Method
from federation.services.request_stream import RequestStream

# A description is found once its module is imported, which services on raw bytes need not do.
_DESCRIBED = (
    remote_asset_pb2,
    remote_execution_pb2,
    bytestream_pb2,
    buildstream_pb2,
    holdings_pb2,
    pins_pb2,
    purges_pb2,
)


class ReflectionService:
    """grpc.reflection.v1alpha.ServerReflection, with the library's answers."""

    name = "grpc.reflection.v1alpha.ServerReflection"

    def __init__(self, service_names: Iterable[str], limits: LimitsConfig) -> None:
        """Describe these services, health and itself.

        Raises KeyError for a service that this package has no description of.
        """
        self._limits = limits
        self._pool = descriptor_pool.Default()
        self._names = (*service_names, HEALTH)
        for name in self._names:
            self._pool.FindServiceByName(name)

    @cached_property
    def _answers(self) -> Any:
        from grpc_reflection.v1alpha import reflection  # noqa: PLC0415 - see above

        names = (*self._names, self.name)
        return reflection.aio.ReflectionServicer(names, pool=self._pool)  # type: ignore[attr-defined]

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {"ServerReflectionInfo": BothStreams(self._info, open_to_all=True)}

    async def _info(self, requests: RequestStream, _call: Call) -> AsyncGenerator[bytes, None]:
        asked = _Parsed(requests, self._limits.stall)
        async for answer in self._answers.ServerReflectionInfo(asked, None):
            yield bytes(answer.SerializeToString())


class _Parsed:
    """The requests of a stream as the library reads them."""

    def __init__(self, requests: RequestStream, stall_s: float) -> None:
        self._requests = requests
        self._stall_s = stall_s

    def __aiter__(self) -> _Parsed:
        return self

    async def __anext__(self) -> Any:
        data = await self._requests.next(self._stall_s)
        if data is None:
            raise StopAsyncIteration
        from grpc_reflection.v1alpha import reflection_pb2  # noqa: PLC0415 - see above

        return reflection_pb2.ServerReflectionRequest.FromString(data)
