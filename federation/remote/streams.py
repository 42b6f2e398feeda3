"""One streaming call, which neither hangs nor fails with an error of gRPC.

A wait is limited by ending the call, never by cancelling the wait alone: the buffers of a pending
read or write belong to gRPC until the call has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc

from federation.core.clock import Clock
from federation.remote.failures import FailureKind, NotFound, RemoteFailed, failure
from federation.remote.measures import Measures
from federation.remote.methods import Method
from federation.remote.statuses import from_rpc

if TYPE_CHECKING:
    from federation.observability.tracing.tracer import TracedCall

_EOF: object = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs do not know it
_END_S = 0.25  # how long a remote may take to end a stream whose bytes have all come
_LARGER = "message larger than max"
_T = TypeVar("_T")
_E = TypeVar("_E", "NotFound | RemoteFailed", NotFound, RemoteFailed)


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """What all streams of one remote share."""

    remote: str
    stall_s: float
    answer_s: float
    clock: Clock
    measures: Measures
    brake: Callable[[int], Awaitable[None]]
    on_first: Callable[[Run], None]


@dataclass(slots=True)
class Run:
    """The state of one call. Its first failure counts, whatever its user does with it."""

    started_s: float
    traced: TracedCall | None = None
    answered_before: int = 0  # how many calls the remote had answered when this one began
    is_answered: bool = False  # whether anything came
    error: NotFound | RemoteFailed | None = None

    def failed(self, error: _E) -> _E:
        """Record the failure, and return it to be raised."""
        # What follows the first failure, such as the cancelled call, follows from it.
        if self.error is None:
            self.error = error
        return error


class _Limited:
    """A call with a time limit for each wait."""

    def __init__(self, call: Any, times: StreamTimes, run: Run) -> None:
        self._call = call
        self._times = times
        self._run = run
        self._expired = False

    def _expire(self) -> None:
        self._expired = True
        self._call.cancel()

    async def _within(self, deadline_s: float, waiting: Awaitable[_T]) -> _T:
        """Wait until this time of the event loop at most; then the call is ended."""
        # Not asyncio.timeout(), which cancels the wait: see above.
        timer = asyncio.get_running_loop().call_at(deadline_s, self._expire)
        try:
            return await waiting
        finally:
            timer.cancel()

    def fail(self, kind: FailureKind, detail: str) -> RemoteFailed:
        """Return the error to raise about this call."""
        return self._run.failed(failure(self._times.remote, kind, detail))

    def _failed(self, error: grpc.aio.AioRpcError) -> NotFound | RemoteFailed:
        return self._run.failed(from_rpc(self._times.remote, error))

    def _stopped(self, detail: str) -> NoReturn:
        """Raise why a wait was cut off: CancelledError if the waiting task was cancelled."""
        raise_if_cancelled()
        if self._expired:
            raise self.fail(FailureKind.STALLED, detail) from None
        raise self.fail(FailureKind.CLOSED, "the connection was closed") from None


class IncomingStream(_Limited):
    """The responses of a call."""

    def __init__(self, call: Any, method: Method, times: StreamTimes, run: Run) -> None:
        super().__init__(call, times, run)
        self._method = method
        self._first = True

    async def next(self, has_content: Callable[[bytes], int]) -> bytes | None:
        """Return the next message that has content, None at a clean end.

        Messages without content are no progress. Raises NotFound, RemoteFailed.
        """
        deadline_s = asyncio.get_running_loop().time() + self._times.stall_s
        while (message := await self._read(deadline_s)) is not None:
            if has_content(message):
                if self._first:
                    self._first = False
                    self._times.on_first(self._run)
                    seconds = self._times.clock.monotonic_s() - self._run.started_s
                    self._times.measures.first_byte(self._method.name, seconds)
                await self._times.brake(len(message))
                return message
        return None

    async def end(self, has_content: Callable[[bytes], int]) -> bool:
        """Wait for the end of a stream of which all bytes have come; False: more have.

        One that simply does not end is not waited for: its bytes are all there. Raises
        RemoteFailed, since a remote may say only now that they were wrong.
        """
        deadline_s = asyncio.get_running_loop().time() + min(_END_S, self._times.stall_s)
        while True:
            try:
                message = await self._read(deadline_s)
            except RemoteFailed:
                if self._expired:
                    self._run.error = None
                    return True
                raise
            if message is None:
                return True
            if has_content(message):
                return False

    async def _read(self, deadline_s: float) -> bytes | None:
        try:
            message = await self._within(deadline_s, self._call.read())
        except grpc.aio.AioRpcError as error:
            # After its first bytes the blob was there, so this is no absence but a break.
            if error.code() is grpc.StatusCode.NOT_FOUND and not self._first:
                detail = f"NOT_FOUND in the middle: {error.details()}"
                raise self.fail(FailureKind.INTERNAL, detail) from None
            if _LARGER in (error.details() or ""):  # gRPC's own word here, not the remote's
                raise self.fail(FailureKind.MALFORMED, error.details() or "") from None
            raise self._failed(error) from None
        except asyncio.CancelledError:
            self._stopped(f"nothing came for {self._times.stall_s:g} s")
        if message is _EOF:
            return None
        assert isinstance(message, bytes)
        self._times.measures.received(len(message))
        return message


class OutgoingStream(_Limited):
    """The requests of a call, and its one response."""

    def __init__(self, call: Any, times: StreamTimes, run: Run) -> None:
        super().__init__(call, times, run)
        # call.write would do, but where a write meets the end of the call, it puts INTERNAL in the
        # place of the status that the server is sending, be that OK or a refusal.
        inner = getattr(call, "_cython_call", None)
        self._write = getattr(inner, "send_serialized_message", None) or call.write

    @property
    def is_answered(self) -> bool:
        """Whether the remote has ended the call, possibly before everything was sent."""
        return bool(self._call.done())

    async def send(self, message: bytes) -> bool:
        """Send; False: the remote has ended the call, and answer() says how."""
        deadline_s = asyncio.get_running_loop().time() + self._times.stall_s
        try:
            await self._within(deadline_s, self._send(message))
        # How the call ended is told by answer(), which waits for the status.
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            return False
        except asyncio.CancelledError:
            self._stopped(f"nothing was taken for {self._times.stall_s:g} s")
        self._times.measures.sent(len(message))
        await self._times.brake(len(message))
        return True

    async def _send(self, message: bytes) -> None:
        # Without it the first message would wait in gRPC's memory while nobody answers.
        await self._call.wait_for_connection()
        await self._write(message)

    async def answer(self) -> bytes:
        """Finish sending, if everything is sent, and return the response.

        Raises NotFound, RemoteFailed.
        """
        deadline_s = asyncio.get_running_loop().time() + self._times.answer_s
        try:
            return await self._within(deadline_s, self._finish())
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        except asyncio.CancelledError:
            self._stopped(f"no answer came for {self._times.answer_s:g} s")

    async def _finish(self) -> bytes:
        if not self._call.done():
            with suppress(grpc.aio.InternalError):  # it has ended in between; see below how
                await self._call.done_writing()
        response: bytes = await self._call
        return response


def raise_if_cancelled() -> None:
    """Pass the cancellation on if it is this task that is being cancelled.

    gRPC also raises CancelledError where only the call was cancelled.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise asyncio.CancelledError
