"""What every call passes through: rights, time limits, counting, logging, errors to statuses.

One wrapper around each handler; interceptors cost more. Requests and responses are raw bytes, so
that a service decides itself how it reads them. Nothing here knows what a method does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog

from federation.access.authenticator import Access
from federation.config.model import LimitsConfig
from federation.core import hops
from federation.core.clock import Clock
from federation.core.errors import Stalled
from federation.core.memory_budget import MemoryBudget
from federation.observability.log_limit import LogLimit
from federation.observability.metrics import Metrics
from federation.services.acknowledge import Acknowledge
from federation.services.call import (
    PULL,
    PUSH,
    Call,
    Context,
    Method,
    ServerStream,
    Service,
    Unary,
)
from federation.services.quotas import CallerQuotas
from federation.services.refusals import AuthLog
from federation.services.request_stream import RequestStream
from federation.services.status_codes import INTERNAL, OK, TROUBLE_HERE, CallStatus, outcome_of

_log = structlog.get_logger(__name__)
_ABORT_S = 5.0  # a status that a peer does not take for this long is not waited for


@dataclass(slots=True)
class Runtime:
    """What the wrapper needs; one for each listener, since rights differ. They share a budget."""

    metrics: Metrics
    limits: LimitsConfig
    clock: Clock
    access: Access
    budget: MemoryBudget
    acknowledge: Acknowledge | None = None  # None: writes are answered once they are durable here
    shares: CallerQuotas | None = None  # None: nobody is limited
    audit: bool = False
    heard_from: Callable[[str], None] | None = None  # called with the id of each peer that calls
    log_limit: LogLimit = field(init=False)
    refusals: AuthLog = field(init=False)

    def __post_init__(self) -> None:
        self.log_limit = LogLimit(self.clock)
        self.refusals = AuthLog(LogLimit(self.clock))


def handlers(
    services: Sequence[Service], runtime: Runtime
) -> list[grpc.GenericRpcHandler[bytes, bytes]]:
    """Return what grpc.aio.Server.add_generic_rpc_handlers takes."""
    return [_generic_handler(service, runtime) for service in services]


def _generic_handler(service: Service, runtime: Runtime) -> grpc.GenericRpcHandler[bytes, bytes]:
    wrapped = {
        name: _wrap(_Wrapper(f"{service.name}/{name}", method.writes, runtime), method)
        for name, method in service.methods().items()
    }
    return grpc.method_handlers_generic_handler(service.name, wrapped)


def _wrap(wrapper: _Wrapper, method: Method) -> Any:
    if isinstance(method, Unary):
        return grpc.unary_unary_rpc_method_handler(wrapper.unary(method.handler))
    if isinstance(method, ServerStream):
        return grpc.unary_stream_rpc_method_handler(wrapper.server_stream(method.handler))
    return grpc.stream_unary_rpc_method_handler(wrapper.client_stream(method.handler))


class _Wrapper:
    """The parts that all calls of one method share."""

    def __init__(self, method: str, writes: bool, runtime: Runtime) -> None:
        self._method = method
        self._writes = writes
        self._needs = PUSH if writes else PULL
        self._runtime = runtime
        self._access = runtime.access
        self._shares = runtime.shares
        self._audit = runtime.audit
        self._acknowledge = runtime.acknowledge if writes else None
        self._seconds = runtime.metrics.request_seconds.labels(method=method)
        self._metrics = runtime.metrics
        self._counts: dict[str, Any] = {}

    def unary(self, handler: Callable[[bytes, Call], Awaitable[bytes]]) -> Any:
        async def serve(request: bytes, context: Context) -> bytes:
            limit_s = self._runtime.limits.request_time  # a reload may change it

            async def answer(call: Call) -> bytes:
                if call.share is not None:
                    await call.share.pay(len(request))
                try:
                    async with asyncio.timeout(limit_s) as scope:
                        response = await handler(request, call)
                except TimeoutError:
                    if not scope.expired():  # the machine's own, e.g. of a disk
                        raise
                    raise Stalled(f"the call took longer than {limit_s:g} s") from None
                if call.share is not None:
                    await call.share.pay(len(response))
                return response

            return await self._guard(answer, context)

        return serve

    def client_stream(self, handler: Callable[[RequestStream, Call], Awaitable[bytes]]) -> Any:
        async def serve(_requests: object, context: Context) -> bytes:
            async def answer(call: Call) -> bytes:
                pay = call.share.pay if call.share is not None else None
                with closing(RequestStream(context.read, self._runtime.budget, pay)) as requests:
                    return await handler(requests, call)

            return await self._guard(answer, context)

        return serve

    def server_stream(self, handler: Callable[[bytes, Call], AsyncGenerator[bytes, None]]) -> Any:
        async def serve(request: bytes, context: Context) -> None:
            stall_s = self._runtime.limits.stall

            async def answer(call: Call) -> bytes:
                await _send_all(handler(request, call), call, stall_s)
                return b""

            await self._guard(answer, context)

        return serve

    async def _guard(self, answer: Callable[[Call], Awaitable[bytes]], context: Context) -> bytes:
        """Run one call; every way in which it can end is counted and logged here."""
        started_s = self._runtime.clock.monotonic_s()
        peer = context.peer()
        outcome = _CANCELLED
        rights = None
        self._metrics.calls_running += 1
        try:
            rights = self._access.rights_of(context)
            rights.check(self._needs, self._method)
            share = self._shares.of(rights, peer) if self._shares is not None else None
            call = Call(context, self._method, rights, peer, share, self._audit)
            if share is None:
                response = await self._on_behalf(answer, call)
            else:
                async with share.taken(writes=self._writes):
                    response = await self._on_behalf(answer, call)
            outcome = OK
        except Exception as error:  # noqa: BLE001 - the outermost frame of a call
            outcome = outcome_of(error) or self._unforeseen(error)
            if outcome.code in _REFUSED:
                self._runtime.refusals.tell(error, self._method, peer, rights)
        else:
            return response
        finally:
            self._metrics.calls_running -= 1
            self._ended(outcome, self._runtime.clock.monotonic_s() - started_s, peer)
        await _abort(context, outcome)
        return b""

    async def _on_behalf(self, answer: Callable[[Call], Awaitable[bytes]], call: Call) -> bytes:
        passed = hops.parse(call.context.invocation_metadata() or ())
        if passed.via and call.is_peer and self._runtime.heard_from is not None:
            self._runtime.heard_from(passed.via[-1])
        with hops.serving(passed):
            response = await answer(call)
            # Two nodes that waited for each other's acknowledgement of the other's writes would
            # wait for ever; whoever took a write from its client waits for all of them.
            if self._acknowledge is not None and not call.is_replication:
                await self._acknowledge.wait()
            return response

    def _unforeseen(self, error: Exception) -> CallStatus:
        if (held_back := self._runtime.log_limit.take()) is not None:
            _log.error("call_failed", method=self._method, held_back=held_back, exc_info=error)
        return INTERNAL

    def _ended(self, outcome: CallStatus, seconds: float, peer: str) -> None:
        code = outcome.code.name
        counter = self._counts.get(code)
        if counter is None:
            counter = self._runtime.metrics.requests.labels(method=self._method, code=code)
            self._counts[code] = counter
        counter.inc()
        self._seconds.observe(seconds)
        facts = {"method": self._method, "code": code, "seconds": round(seconds, 6)}
        if outcome.message:
            facts["message"] = outcome.message
        if outcome.code in _ORDINARY:
            _log.debug("request", peer=peer, **facts)
        elif (held_back := self._runtime.log_limit.take()) is not None:
            # A flood of bad requests must not become a flood of lines.
            level = _log.warning if outcome.code in TROUBLE_HERE else _log.debug
            level("request", peer=peer, held_back=held_back, **facts)


_ORDINARY = {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED}
_REFUSED = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}
_CANCELLED = CallStatus(grpc.StatusCode.CANCELLED, "")


async def _send_all(messages: AsyncGenerator[bytes, None], call: Call, stall_s: float) -> None:
    """Write each message; one that the reader does not take for stall_s ends the call."""
    async with aclosing(messages):
        async for message in messages:
            try:
                async with asyncio.timeout(stall_s):
                    await call.context.write(message)
            except TimeoutError:
                raise Stalled(f"the reader took nothing for {stall_s:g} s") from None
            except grpc.aio.InternalError:
                # The reader is gone, and grpc says so here before it cancels the handler.
                raise asyncio.CancelledError from None
            size_bytes = len(message)
            del message  # it must not be kept while the next one is waited for
            if call.share is not None:
                await call.share.pay(size_bytes)


async def _abort(context: Context, outcome: CallStatus) -> None:
    """Send a status other than OK, for a bounded time: a stalled reader may never take it."""
    with suppress(TimeoutError, grpc.aio.InternalError):  # the latter: the caller is gone
        async with asyncio.timeout(_ABORT_S):
            await context.abort(outcome.code, outcome.message)
