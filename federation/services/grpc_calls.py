"""Serves the services by grpc.aio: each call becomes a Transport and goes through its pipeline.

Requests and responses are raw bytes. Every method is served as a stream of requests: gRPC would
read the only one of others before anybody's rights are checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import grpc

from federation.access.incoming_call import Headers, PeerAddress, ShownCertificate, parse_peer
from federation.services.method import ClientStream, Method, Service, Unary
from federation.services.pipeline import Pipeline
from federation.services.runtime import Runtime
from federation.services.status_codes import CallStatus
from federation.services.transport import CallEnded

_CODES = {code.value[0]: code for code in grpc.StatusCode}

Context = grpc.aio.ServicerContext[bytes, bytes]


def handlers(
    services: Iterable[Service], runtime: Runtime
) -> list[grpc.GenericRpcHandler[bytes, bytes]]:
    """Return what grpc.aio.Server.add_generic_rpc_handlers takes."""
    return [_generic_handler(service, runtime) for service in services]


def _generic_handler(service: Service, runtime: Runtime) -> grpc.GenericRpcHandler[bytes, bytes]:
    served = {
        name: _served(Pipeline(f"{service.name}/{name}", method, runtime), method)
        for name, method in service.methods().items()
    }
    return grpc.method_handlers_generic_handler(service.name, served)


def _served(pipeline: Pipeline, method: Method) -> Any:
    async def serve(_requests: object, context: Context) -> bytes:
        answer = await pipeline.run(GrpcCall(context))
        if not isinstance(answer, CallStatus):
            return answer
        with suppress(grpc.aio.InternalError):  # the caller is gone
            await context.abort(_CODES[answer.code], answer.message)
        # abort() raises, so this is reached only when the caller is gone.
        return b""

    if isinstance(method, Unary | ClientStream):
        return grpc.stream_unary_rpc_method_handler(serve)
    return grpc.stream_stream_rpc_method_handler(serve)  # its messages were sent by write()


class GrpcCall:
    """A Transport: see there. It must not be used once the handler has ended.

    grpc frees what is behind the context then, and asking it crashes the process; so the peer and
    the headers are read at the beginning. It also keeps a pointer into the object behind a pending
    read, which cancelling that read would free.
    """

    __slots__ = ("_context", "headers", "peer")

    def __init__(self, context: Context) -> None:
        self._context = context
        self.peer: PeerAddress = parse_peer(context.peer())
        self.headers: Headers = context.invocation_metadata() or ()  # type: ignore[assignment]

    def certificate(self) -> ShownCertificate:
        """See IncomingCall."""
        shown = self._context.auth_context()
        # gRPC lists each property's values, and a connection has one certificate.
        (leaf,) = shown.get("x509_pem_cert", (b"",))
        (chain,) = shown.get("x509_pem_cert_chain", (b"",))
        return ShownCertificate(leaf, chain)

    def next_size(self) -> int | None:
        """See Transport: gRPC shows whole messages only."""
        return None

    def came_bytes(self) -> int:
        """See Transport."""
        return 0

    def is_ready(self) -> bool:
        """See Transport."""
        return False

    def is_ended(self) -> bool:
        """See Transport."""
        return False

    async def read(self) -> bytes | None:
        """See Transport."""
        try:
            message = await self._context.read()
        # gRPC says in several ways that a call is over; to the pipeline all are one.
        except grpc.aio.BaseError:
            raise CallEnded from None
        return message if isinstance(message, bytes) else None

    async def write(self, message: bytes, rest: bytes = b"") -> None:
        """See Transport."""
        if rest:
            message += rest
            del rest  # a slow reader holds one copy only
        try:
            await self._context.write(message)
        except grpc.aio.InternalError:
            raise CallEnded from None

    async def send_headers(self, headers: Sequence[tuple[str, str]]) -> None:
        """See Transport."""
        await self._context.send_initial_metadata(headers)

    async def abort(self, status: CallStatus) -> None:
        """See Transport."""
        with suppress(grpc.aio.BaseError):
            await self._context.abort(_CODES[status.code], status.message)
