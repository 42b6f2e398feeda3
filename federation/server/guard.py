"""Letting in certain clients only: the TLS of a listener, and a check of calls to health and such.

gRPC verifies a client's certificate with the lists as its trust roots. That lets in what a listed
certificate signed, and whoever connected while still listed; so each call's certificate is compared
with the lists as they are at that moment. services/rpc.py does that for the services of this
package; what the gRPC libraries bring (health, reflection) is wrapped here.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import grpc

from federation.access.authenticator import Authenticator
from federation.access.live_tls import LiveTls
from federation.access.tls import KeyPair
from federation.core.errors import NotAllowed, NotAuthenticated
from federation.observability.metrics import Metrics
from federation.services.health import Server
from federation.services.refusals import AuthLog
from federation.services.status_codes import outcome_of

_MAKERS: dict[str, Callable[..., Any]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


def credentials(live: LiveTls) -> grpc.ServerCredentials:
    """Return credentials for one address; each new connection is met with the current files."""
    shown = live.pair

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        pair = live.pair
        if pair is shown:
            return None
        shown = pair
        return _configuration(pair)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        changed,  # type: ignore[arg-type]  # grpc documents None for "no change"
        bool(shown.lists),
    )


def _configuration(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
    roots = b"".join(each.pem for each in pair.lists) or None
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], roots)


class GuardedServer:
    """Stands for a server while services are added to it that let in everybody by themselves."""

    def __init__(
        self, server: Server, callers: Authenticator, refusals: AuthLog, metrics: Metrics
    ) -> None:
        self._server = server
        self._callers = callers
        self._refusals = refusals
        self._metrics = metrics

    def __repr__(self) -> str:
        return f"<GuardedServer {self._callers!r}>"

    def add_generic_rpc_handlers(
        self, handlers: Sequence[grpc.GenericRpcHandler[Any, Any]]
    ) -> None:
        """Add handlers whose calls are answered for callers with a good certificate only."""
        self._server.add_generic_rpc_handlers([_Guarded(each, self) for each in handlers])

    def add_registered_method_handlers(self, _service: str, _handlers: Any) -> None:
        """Do nothing: the same handlers come through add_generic_rpc_handlers, too."""

    def guard(self, handler: Any, method: str) -> Any:
        """Return a handler of the same kind that looks at the caller first."""
        kind = next(kind for kind in _MAKERS if getattr(handler, kind) is not None)
        behind = self._behind(getattr(handler, kind), method)
        return _MAKERS[kind](behind, handler.request_deserializer, handler.response_serializer)

    def _behind(self, inner: Callable[..., Any], method: str) -> Callable[..., Any]:
        """Return a behaviour of the same kind, since grpc treats the two kinds differently."""
        if inspect.isasyncgenfunction(inner):

            async def stream(request: Any, context: Any) -> AsyncGenerator[Any, None]:
                await self._admit(context, method)
                async with aclosing(inner(request, context)) as messages:
                    async for message in messages:
                        yield message

            return stream

        async def call(request: Any, context: Any) -> Any:
            await self._admit(context, method)
            return await inner(request, context)

        return call

    async def _admit(self, context: Any, method: str) -> None:
        """End the call, unless its client is let in now."""
        try:
            self._callers.admit(context)
        except (NotAllowed, NotAuthenticated) as error:
            outcome = outcome_of(error)
            assert outcome is not None
            self._metrics.requests.labels(method=method, code=outcome.code.name).inc()
            self._refusals.tell(error, method, context.peer())
            await context.abort(outcome.code, outcome.message)


class _Guarded(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not so at run time
    """What finds the handlers of some service, guarded."""

    def __init__(self, inner: grpc.GenericRpcHandler[Any, Any], server: GuardedServer) -> None:
        self._inner = inner
        self._server = server
        self._made: dict[str, tuple[Any, Any]] = {}  # methods that there are, so bounded

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See grpc.GenericRpcHandler."""
        handler = self._inner.service(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        known, guarded = self._made.get(method, (None, None))
        if known is not handler:
            guarded = self._server.guard(handler, method.removeprefix("/"))
            self._made[method] = (handler, guarded)
        return guarded
