"""How each kind of method exchanges its messages: one or many, within bounds of bytes and time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing, closing
from functools import partial

from federation.config.model import LimitsConfig
from federation.core.errors import InvalidRequest, RequestTooLarge
from federation.core.store import FilePart
from federation.services.arrivals import LEAST_BYTES
from federation.services.call import Call
from federation.services.method import (
    SMALL_ANSWER,
    BothStreams,
    ClientStream,
    Exchanged,
    Method,
    Parts,
    Responses,
    ServerStream,
    Unary,
)
from federation.services.request_stream import RequestStream
from federation.services.running import RunningCalls
from federation.services.running_call import RunningCall
from federation.services.runtime import Runtime
from federation.services.transport import SendsFiles

Exchange = Callable[[Call], Awaitable[bytes]]


def exchange_of(method: Method, runtime: Runtime) -> Exchange:
    """Return what reads a call's requests, has them handled, and sends or returns the answer.

    The answer of a call with many responses is empty: they are sent as they are made.
    """
    if isinstance(method, Unary):
        return _Unary(method, runtime).run
    if isinstance(method, ServerStream):
        return _ServerStream(method, runtime).run
    if isinstance(method, ClientStream):
        return _ClientStream(method, runtime).run
    if isinstance(method, Exchanged):
        return _Exchanged(method, runtime).run
    return _BothStreams(method, runtime).run


class _OneRequest:
    """Reading the only request of a call."""

    def __init__(self, method: Unary | ServerStream, runtime: Runtime) -> None:
        self._request_max = method.request_max
        self._calls = runtime.calls
        self._limits = runtime.limits

    async def _request(self, call: Call) -> bytes:
        most_bytes = min(self._limits.message, self._request_max)
        message = await self._calls.read(call, most_bytes, first=True)
        if message is None:
            raise InvalidRequest("the call ended without a message")
        # gRPC knows one bound for all methods of a server, so a method's own is checked here.
        if len(message) > most_bytes:
            raise RequestTooLarge(
                "message.size", f"a request of {len(message)} bytes; at most {most_bytes}"
            )
        return message


class _Unary(_OneRequest):
    def __init__(self, method: Unary, runtime: Runtime) -> None:
        super().__init__(method, runtime)
        self._handler = method.handler
        self._writes = method.writes

    async def run(self, call: Call) -> bytes:
        request = await self._request(call)
        if call.quota is not None:
            await call.quota.pay(len(request))
        response = await call.in_time(self._handler(request, call))
        if not self._fits(call, len(response)):
            size_bytes = len(response)
            # The write is done, and must not be done a second time.
            if self._writes:
                await self._calls.make_room(call, size_bytes)
            else:  # an answer that waits for room must not take memory meanwhile
                del response
                await self._calls.make_room(call, size_bytes)
                response = await call.in_time(self._handler(request, call))
                self._fits(call, len(response))
        if call.quota is not None:
            await call.quota.pay(len(response))
        return response

    def _fits(self, call: Call, size_bytes: int) -> bool:
        """Acquire or release room, so that the call has what its answer needs, if there is some."""
        # The handler may have taken room already, for an answer of another size.
        more_bytes = size_bytes - call.answer_bytes
        if more_bytes < 0:
            self._calls.shrink_answer(call, -more_bytes)
            return True
        # Small answers are bounded by the number of calls.
        if size_bytes <= SMALL_ANSWER or not more_bytes:
            return True
        return self._calls.try_reserve_answer(call, more_bytes)


class _ServerStream(_OneRequest):
    def __init__(self, method: ServerStream, runtime: Runtime) -> None:
        super().__init__(method, runtime)
        self._handler = method.handler
        self._send = _Sender(runtime, paced=method.paced).send

    async def run(self, call: Call) -> bytes:
        request = await self._request(call)
        await self._send(self._handler(request, call), call)
        return b""


class _ClientStream:
    def __init__(self, method: ClientStream, runtime: Runtime) -> None:
        self._handler = method.handler
        self._runtime = runtime

    async def run(self, call: Call) -> bytes:
        with closing(_requests(call, self._runtime)) as requests:
            return await self._handler(requests, call)


class _BothStreams:
    def __init__(self, method: BothStreams, runtime: Runtime) -> None:
        self._handler = method.handler
        self._runtime = runtime
        self._send = _Sender(runtime, paced=method.paced).send

    async def run(self, call: Call) -> bytes:
        with closing(_requests(call, self._runtime)) as requests:
            await self._send(self._handler(requests, call), call)
        return b""


class _Exchanged:
    def __init__(self, method: Exchanged, runtime: Runtime) -> None:
        self._handler = method.handler
        self._runtime = runtime
        self._send = _Sender(runtime, paced=True)

    async def run(self, call: Call) -> bytes:
        with closing(_requests(call, self._runtime)) as requests:
            answer = await self._handler(requests, partial(self._send.send_one, call), call)
        if call.quota is not None:
            await call.quota.pay(len(answer))
        return answer


def _requests(call: Call, runtime: Runtime) -> RequestStream:
    pay = call.quota.pay if call.quota is not None else None
    reader = UploadReader(runtime.calls, call, runtime.limits)
    return RequestStream(
        reader.read,
        runtime.budget,
        pay,
        reader.gone,
        reader.waits_for_room,
        reader.may_read,
        call.transport.is_ended,
    )


class _Sender:
    """Sending many responses. RunningCalls ends calls whose readers take nothing for too long."""

    def __init__(self, runtime: Runtime, *, paced: bool) -> None:
        self._calls = runtime.calls
        self._paced = paced

    async def send(self, messages: Responses, call: Call) -> None:
        calls, write = self._calls, call.transport.write
        # A handler that is left in the middle must release what it holds now, not when it is
        # collected.
        async with aclosing(messages):
            async for message in messages:
                parts = message if isinstance(message, Parts) else (message, b"")
                size_bytes = len(parts[0]) + len(parts[1])
                # A paced handler keeps within a budget of its own.
                if size_bytes > SMALL_ANSWER and not self._paced:
                    await calls.make_room(call, size_bytes)
                calls.note_sending(call)
                await write(*parts)
                calls.note_sent(call)
                del message, parts  # it must not be kept while the next one is waited for
                if call.quota is not None:
                    await call.quota.pay(size_bytes)

    async def send_one(self, call: Call, message: bytes | FilePart) -> None:
        """Send one message; returns when the next may be sent."""
        self._calls.note_sending(call)
        if isinstance(message, FilePart):
            size_bytes = message.size_bytes
            assert isinstance(call.transport, SendsFiles)
            await call.transport.send_file(message)
        else:
            size_bytes = len(message)
            await call.transport.write(message)
        self._calls.note_sent(call)
        if call.quota is not None:
            await call.quota.pay(size_bytes)


_FIRST_BYTES = 2**20  # what clients send in one message of an upload, about


class UploadReader:
    """Reads the messages of an upload, each when there is room for one like the last."""

    def __init__(self, calls: RunningCalls, call: RunningCall, limits: LimitsConfig) -> None:
        self._calls = calls
        self._call = call
        self._next_bytes = min(_FIRST_BYTES, limits.message)
        self._first = True

    async def read(self) -> bytes | None:
        """Return the next message; None after the last one. Raises CallEnded."""
        first, self._first = self._first, False
        message = await self._calls.read(self._call, self._next_bytes, first=first)
        if message is not None:
            # Clients send equal messages, all but the last.
            self._next_bytes = max(LEAST_BYTES, len(message))
        return message

    def may_read(self) -> bool:
        """Whether read() would return without waiting."""
        return self._calls.may_read(self._call, self._next_bytes)

    def waits_for_room(self) -> bool:
        """Whether there is no room for the next message yet."""
        return self._call.waits_for_room

    def gone(self, size_bytes: int) -> None:
        """A message of this size is not held any more."""
        self._calls.release(self._call, size_bytes)
