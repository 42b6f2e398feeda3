"""Letting in listed clients only: the TLS of a listener, and a check of every call.

gRPC verifies a client's certificate with the list as its trust roots. That lets in what a listed
certificate signed, and whoever connected while still listed; so each call's certificate is compared
with the list as it is at that moment, whatever service is called.
"""

from __future__ import annotations

import inspect
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import structlog

from federation.client_list import fingerprint_of
from federation.clock import Clock
from federation.errors import NotAllowed
from federation.live_tls import LiveTls
from federation.services.log_limit import LogLimit
from federation.services.status_codes import outcome_of
from federation.status import Metrics
from federation.tls import KeyPair

_log = structlog.get_logger(__name__)

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
        shown.clients is not None,
    )


def _configuration(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
    roots = pair.clients.pem if pair.clients is not None else None
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], roots)


class ClientGate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not so at run time
    """Stands in front of every service of a listener that has a list."""

    def __init__(self, live: LiveTls, metrics: Metrics, clock: Clock) -> None:
        self._live = live
        self._metrics = metrics
        self._log_limit = LogLimit(clock)
        self._guarded: dict[str, tuple[Any, Any]] = {}  # methods that there are, so bounded

    def __repr__(self) -> str:
        return f"<ClientGate {self._live!r}>"

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        known, guarded = self._guarded.get(method, (None, None))
        if known is not handler:
            guarded = self._guard(handler, method.removeprefix("/"))
            self._guarded[method] = (handler, guarded)
        return guarded

    def _guard(self, handler: Any, method: str) -> Any:
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
        """End the call, unless its client is listed now."""
        shown = context.auth_context()
        (pem,) = shown.get("x509_pem_cert", (b"",))
        fingerprint = fingerprint_of(ssl.PEM_cert_to_DER_cert(pem.decode())) if pem else ""
        reason = self._live.refusal(fingerprint) if pem else "no certificate was shown"
        if reason is None:
            return
        outcome = outcome_of(NotAllowed(f"this listener does not let this client in: {reason}"))
        assert outcome is not None
        self._metrics.requests.labels(method=method, code=outcome.code.name).inc()
        if (held_back := self._log_limit.take()) is not None:
            (subject,) = shown.get("x509_subject", (b"",))
            _log.warning(
                "client_refused",
                reason=reason,
                subject=subject.decode(errors="replace"),
                fingerprint=fingerprint,
                peer=context.peer(),
                method=method,
                held_back=held_back,
            )
        await context.abort(outcome.code, outcome.message)
