"""What every call passes through: rights, time limits, counting, logging, errors to statuses.

One wrapper around each handler; interceptors cost more. Requests and responses are raw bytes, so
that a service decides itself how it reads them. Nothing here knows what a method does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import structlog

from federation.access.authenticator import Access
from federation.access.rights import ANONYMOUS, Rights
from federation.config.model import LimitsConfig
from federation.core import hops, uses
from federation.core.clock import Clock
from federation.core.errors import InvalidRequest, RequestTooLarge, Stalled
from federation.core.memory_budget import MemoryBudget
from federation.core.uses import Use
from federation.observability.limit_hits import LimitHits
from federation.observability.log_limit import LogLimit
from federation.observability.metrics import Metrics
from federation.services.acknowledge import Acknowledge
from federation.services.bounds import SharedBounds
from federation.services.call import (
    NO_OWN_BOUND,
    PULL,
    PUSH,
    BothStreams,
    Call,
    ClientStream,
    Context,
    Method,
    ServerStream,
    Service,
    Unary,
)
from federation.services.instance_names import InstanceNames
from federation.services.quotas import CallerQuotas, caller_of
from federation.services.refusals import AuthLog
from federation.services.request_stream import RequestStream
from federation.services.running import RunningCalls
from federation.services.running_call import NEVER_S, CallPhase, RunningCall
from federation.services.status_codes import INTERNAL, OK, TROUBLE_HERE, CallStatus, outcome_of
from federation.services.upload_reader import UploadReader

_log = structlog.get_logger(__name__)
SMALL_ANSWER_BYTES = 2**14  # what bounds the number of calls bounds these, too


@dataclass(slots=True)
class Runtime:
    """What the wrapper needs; one for each listener, since rights differ. They share the bounds."""

    metrics: Metrics
    limits: LimitsConfig
    clock: Clock
    access: Access
    budget: MemoryBudget
    acknowledge: Acknowledge | None = None  # None: writes are answered once they are durable here
    shares: CallerQuotas | None = None  # None: nobody is limited
    audit: bool = False
    heard_from: Callable[[str], None] | None = None  # called with the id of each peer that calls
    bounds: SharedBounds | None = None  # None: this listener's own
    log_limit: LogLimit = field(init=False)
    refusals: AuthLog = field(init=False)
    calls: RunningCalls = field(init=False)
    hits: LimitHits = field(init=False)
    names: InstanceNames = field(init=False)

    def __post_init__(self) -> None:
        self.log_limit = LogLimit(self.clock)
        self.refusals = AuthLog(LogLimit(self.clock))
        bounds = self.bounds or SharedBounds.of(self.metrics, self.clock, self.budget)
        self.hits = bounds.hits
        self.names = InstanceNames(self.limits, self.hits)
        self.calls = RunningCalls(
            self.limits, self.clock, bounds.hits, bounds.incoming, bounds.outgoing
        )


def handlers(
    services: Sequence[Service], runtime: Runtime
) -> list[grpc.GenericRpcHandler[bytes, bytes]]:
    """Return what grpc.aio.Server.add_generic_rpc_handlers takes."""
    return [_generic_handler(service, runtime) for service in services]


def _generic_handler(service: Service, runtime: Runtime) -> grpc.GenericRpcHandler[bytes, bytes]:
    wrapped = {
        name: _wrap(_Wrapper(f"{service.name}/{name}", method, runtime), method)
        for name, method in service.methods().items()
    }
    return grpc.method_handlers_generic_handler(service.name, wrapped)


def _wrap(wrapper: _Wrapper, method: Method) -> Any:
    """Serve every method as a stream of requests: else gRPC reads one before anybody is asked."""
    if isinstance(method, Unary):
        return grpc.stream_unary_rpc_method_handler(wrapper.unary(method.handler))
    if isinstance(method, ServerStream):
        return grpc.stream_stream_rpc_method_handler(wrapper.server_stream(method.handler))
    if isinstance(method, ClientStream):
        return grpc.stream_unary_rpc_method_handler(wrapper.client_stream(method.handler))
    return grpc.stream_stream_rpc_method_handler(wrapper.both_streams(method.handler))


class _Wrapper:
    """The parts that all calls of one method share."""

    def __init__(self, method: str, kind: Method, runtime: Runtime) -> None:
        self._method = method
        self._writes = kind.writes
        self._open = kind.open_to_all
        self._request_max = (
            kind.request_max if isinstance(kind, Unary | ServerStream) else NO_OWN_BOUND
        )
        self._needs = 0 if self._open else PUSH if kind.writes else PULL
        self._paced = isinstance(kind, ServerStream | BothStreams) and kind.paced
        self._runtime = runtime
        self._calls = runtime.calls
        self._access = runtime.access
        self._shares = runtime.shares
        self._audit = runtime.audit
        self._acknowledge = runtime.acknowledge if kind.writes else None
        self._seconds = runtime.metrics.request_seconds.labels(method=method)
        self._metrics = runtime.metrics
        self._counts: dict[str, Any] = {}

    def unary(self, handler: Callable[[bytes, Call], Awaitable[bytes]]) -> Any:
        async def serve(_requests: object, context: Context) -> bytes:
            async def answer(call: Call, running: RunningCall) -> bytes:
                request = await self._only_message(running)
                if call.share is not None:
                    await call.share.pay(len(request))
                response = await self._in_time(handler, request, call, running)
                if not self._fits(running, len(response)):
                    more_bytes = len(response) - running.answer_bytes
                    if self._writes:
                        await self._calls.room_to_answer(running, more_bytes)
                    else:  # what waits for room takes none meanwhile
                        del response
                        await self._calls.room_to_answer(running, more_bytes)
                        response = await self._in_time(handler, request, call, running)
                        self._fits(running, len(response))
                if call.share is not None:
                    await call.share.pay(len(response))
                return response

            return await self._guard(answer, context)

        return serve

    def _fits(self, running: RunningCall, size_bytes: int) -> bool:
        """Take or give back room, so that the call has what its answer needs, if there is some."""
        more_bytes = size_bytes - running.answer_bytes
        if more_bytes < 0:
            self._calls.answers_less(running, -more_bytes)
            return True
        if size_bytes <= SMALL_ANSWER_BYTES or not more_bytes:
            return True
        return self._calls.may_answer(running, more_bytes)

    async def _only_message(self, running: RunningCall) -> bytes:
        most_bytes = min(self._runtime.limits.message, self._request_max)
        message = await self._calls.read(running, most_bytes, first=True)
        if isinstance(message, bytes):
            if len(message) > most_bytes:
                raise RequestTooLarge(
                    "message.size", f"a request of {len(message)} bytes; at most {most_bytes}"
                )
            return message
        raise InvalidRequest("the call ended without a message")

    async def _in_time(
        self,
        handler: Callable[[bytes, Call], Awaitable[bytes]],
        request: bytes,
        call: Call,
        running: RunningCall,
    ) -> bytes:
        """Answer within the time limit. RunningCalls looks at all: a timer for each costs more."""
        limit_s = self._runtime.limits.request_time  # a reload may change it
        running.late_at_s = self._runtime.clock.monotonic_s() + limit_s
        try:
            return await handler(request, call)
        except asyncio.CancelledError:
            if not self._calls.was_late(running):
                raise
            raise Stalled(f"the call took longer than {limit_s:g} s") from None
        finally:
            running.late_at_s = NEVER_S

    def client_stream(self, handler: Callable[[RequestStream, Call], Awaitable[bytes]]) -> Any:
        async def serve(_requests: object, context: Context) -> bytes:
            async def answer(call: Call, running: RunningCall) -> bytes:
                with closing(self._requests(call, running)) as requests:
                    return await handler(requests, call)

            return await self._guard(answer, context)

        return serve

    def _requests(self, call: Call, running: RunningCall) -> RequestStream:
        pay = call.share.pay if call.share is not None else None
        reader = UploadReader(self._calls, running, self._runtime.limits)
        return RequestStream(reader.read, self._runtime.budget, pay, reader.gone, reader.held_up)

    def server_stream(self, handler: Callable[[bytes, Call], AsyncGenerator[bytes, None]]) -> Any:
        async def serve(_requests: object, context: Context) -> None:
            async def answer(call: Call, running: RunningCall) -> bytes:
                request = await self._only_message(running)
                await self._send_all(handler(request, call), call, running)
                return b""

            await self._guard(answer, context)

        return serve

    def both_streams(
        self, handler: Callable[[RequestStream, Call], AsyncGenerator[bytes, None]]
    ) -> Any:
        async def serve(_requests: object, context: Context) -> None:
            async def answer(call: Call, running: RunningCall) -> bytes:
                with closing(self._requests(call, running)) as requests:
                    await self._send_all(handler(requests, call), call, running)
                return b""

            await self._guard(answer, context)

        return serve

    async def _send_all(
        self, messages: AsyncGenerator[bytes, None], call: Call, running: RunningCall
    ) -> None:
        """Write each message. RunningCalls ends calls whose readers take nothing for too long."""
        calls = self._calls
        async with aclosing(messages):
            async for message in messages:
                size_bytes = len(message)
                if size_bytes > SMALL_ANSWER_BYTES and not self._paced:
                    await self._room(running, size_bytes)
                calls.leaves(running)
                try:
                    await call.context.write(message)
                except grpc.aio.InternalError:
                    if running.ended:
                        raise Stalled("the reader took nothing for too long") from None
                    # The reader is gone, and grpc says so here before it cancels the handler.
                    raise asyncio.CancelledError from None
                calls.answer_is_gone(running)
                del message  # it must not be kept while the next one is waited for
                if call.share is not None:
                    await call.share.pay(size_bytes)

    async def _room(self, running: RunningCall, size_bytes: int) -> None:
        """Have room for an answer, or a message of one, of so many bytes. Raises LimitReached."""
        more_bytes = size_bytes - running.answer_bytes
        if more_bytes > 0 and not self._calls.may_answer(running, more_bytes):
            await self._calls.room_to_answer(running, more_bytes)

    async def _guard(
        self, answer: Callable[[Call, RunningCall], Awaitable[bytes]], context: Context
    ) -> bytes:
        """Run one call; every way in which it can end is counted and logged here."""
        started_s = self._runtime.clock.monotonic_s()
        peer = context.peer()
        outcome = _CANCELLED
        rights = None
        running = None
        self._metrics.calls_running += 1
        try:
            rights = self._shown(context)
            rights.check(self._needs, self._method)
            running = self._calls.begin(
                context, caller_of(rights, peer), peer, stranger=rights is _NOBODY
            )
            share = self._shares.of(rights, peer) if self._shares is not None else None
            room = partial(self._room, running)
            hold = partial(self._calls.hold, running)
            names = self._runtime.names
            call = Call(context, self._method, rights, peer, share, self._audit, room, hold, names)
            if share is None:
                response = await self._on_behalf(answer, call, running)
            else:
                async with share.taken(writes=self._writes):
                    response = await self._on_behalf(answer, call, running)
            outcome = OK
        except asyncio.CancelledError:
            if running is not None and running.ended:
                outcome = _LATE
            raise
        except Exception as error:  # noqa: BLE001 - the outermost frame of a call
            if running is not None and running.ended:
                outcome = _LATE
                if running.phase is CallPhase.LEAVING:  # it is cut off
                    raise asyncio.CancelledError from None
                return b""  # its status is sent
            outcome = outcome_of(error) or self._unforeseen(error)
            if isinstance(error, RequestTooLarge) and running is not None:
                self._runtime.hits.hit(error.limit, running.caller, peer, method=self._method)
            if outcome.code in _REFUSED:
                self._runtime.refusals.tell(error, self._method, peer, rights)
        else:
            self._calls.leaves(running)
            return response
        finally:
            if running is not None:
                self._calls.request_is_gone(running)
            self._metrics.calls_running -= 1
            self._ended(outcome, self._runtime.clock.monotonic_s() - started_s, peer)
        running = running or self._calls.refused(context, peer)
        self._calls.leaves(running)
        with suppress(grpc.aio.InternalError):  # the caller is gone
            await context.abort(outcome.code, outcome.message)
        return b""

    def _shown(self, context: Context) -> Rights:
        """Return the rights of what the caller shows. Raises as Access does."""
        if self._open:
            return self._access.admit(context) or _NOBODY
        return self._access.rights_of(context)

    async def _on_behalf(
        self,
        answer: Callable[[Call, RunningCall], Awaitable[bytes]],
        call: Call,
        running: RunningCall,
    ) -> bytes:
        passed = hops.parse(call.context.invocation_metadata() or ())
        if passed.via and call.is_peer and self._runtime.heard_from is not None:
            self._runtime.heard_from(passed.via[-1])
        # What replication asks is a promise to it, and no use by anybody.
        use = Use.LEASE if passed.replicates else Use.CLIENT
        # Of an ordinary client's call there is nothing to set.
        if passed is hops.current() and use is uses.current():
            return await self._acknowledged(answer, call, running)
        with hops.serving(passed), uses.counted_as(use):
            return await self._acknowledged(answer, call, running)

    async def _acknowledged(
        self,
        answer: Callable[[Call, RunningCall], Awaitable[bytes]],
        call: Call,
        running: RunningCall,
    ) -> bytes:
        response = await answer(call, running)
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
_LATE = CallStatus(grpc.StatusCode.DEADLINE_EXCEEDED, "the other side took too long")
_NOBODY = Rights(ANONYMOUS, None)
