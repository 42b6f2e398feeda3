"""gRPC server reflection: what people and tools like grpcurl learn the services from."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2
from federation._proto.buildstream.v2 import buildstream_pb2
from federation._proto.google.bytestream import bytestream_pb2
from federation.services.health import HEALTH, Server

# A description is found once its module is imported, which services on raw bytes need not do.
_DESCRIBED = (remote_asset_pb2, remote_execution_pb2, bytestream_pb2, buildstream_pb2)


def add_reflection(server: Server, service_names: Iterable[str]) -> None:
    """Serve the descriptions of these services, health and itself; call before the start.

    Raises KeyError for a service that this package has no description of.
    """
    pool = descriptor_pool.Default()
    names = (*service_names, HEALTH, reflection.SERVICE_NAME)
    for name in names:
        pool.FindServiceByName(name)
    servicer = reflection.aio.ReflectionServicer(names, pool=pool)  # type: ignore[attr-defined]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
