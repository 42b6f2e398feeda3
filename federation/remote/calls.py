"""Calls to a remote: bounded, timed, counted, and failing with the types of failures.py.

Unary calls are retried within one time limit. Streams are not: only their reader knows whether to
go on here or at another remote.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from federation.core.clock import Clock
from federation.core.token_bucket import TokenBucket
from federation.remote.connection import Connection
from federation.remote.failures import (
    FailureKind,
    NotFound,
    RemoteFailed,
    RequestRefused,
    Unsupported,
    failure,
)
from federation.remote.lacking import Lacking
from federation.remote.measures import LEFT, NOT_FOUND, OK, Measures
from federation.remote.methods import Method
from federation.remote.settings import RemoteSettings
from federation.remote.slots import Slots
from federation.remote.statuses import from_rpc
from federation.remote.streams import (
    IncomingStream,
    OutgoingStream,
    Run,
    StreamTimes,
    raise_if_cancelled,
)

_CROWDED_FIRST_S, _CROWDED_MAX_S = 0.02, 1.0  # before a call that was not looked at goes again
_BURST_S = 0.25  # of bandwidth: what may pass at once after a pause
_STALLS_MAX = 3  # of one stream
_JITTER = 0.5  # a delay is multiplied by 1 - this to 1 + this

Metadata = list[tuple[str, str]]


class Calls:
    """The calls to one remote."""

    def __init__(
        self,
        settings: RemoteSettings,
        measures: Measures,
        clock: Clock,
        rng: random.Random,
        connect: Callable[[], Awaitable[tuple[Connection, Metadata]]],
        on_failure: Callable[[RemoteFailed], None],
        bandwidth: TokenBucket | None = None,
    ) -> None:
        self._settings = settings
        self._measures = measures
        self._clock = clock
        self._random = rng
        self._connect = connect
        self._on_failure = on_failure
        rate = settings.bandwidth_bytes_s
        self.bandwidth = bandwidth or TokenBucket(rate, rate * _BURST_S, clock.monotonic_s())
        self._lacking = Lacking()
        self._answered = 0  # streams of which something came
        self.slots = Slots(
            settings.name, settings.concurrency, settings.queue_max, settings.request_timeout_s
        )

    @property
    def unsupported(self) -> list[str]:
        """The methods that the remote does not support, as far as is known."""
        missing = self._lacking.all(self._clock.monotonic_s())
        return sorted(f"{method.service}/{method.name}" for method in missing)

    def lacks(self, method: Method) -> bool:
        """Whether this method counts as unsupported now."""
        return self._lacking.lacks(method, self._clock.monotonic_s())

    def believe_lacking(self, method: Method) -> None:
        """Count a method that was UNIMPLEMENTED as unsupported, by further evidence."""
        self._lacking.believe(method, self._clock.monotonic_s())

    def forget_unsupported(self) -> None:
        """Forget what is unsupported: another program may answer now."""
        self._lacking.forget()

    async def unary(self, method: Method, request: bytes) -> bytes:
        """Return the response. Raises NotFound, RemoteFailed."""
        self._check_supported(method)
        deadline_s = self._clock.monotonic_s() + self._settings.request_timeout_s
        try:
            return await self._try(method, request, deadline_s)
        except RemoteFailed as error:
            if not _may_do_better(error):
                raise
            first = error
        return await self._retry(first, method, request, deadline_s)

    async def unary_once(
        self, method: Method, request: bytes, timeout_s: float
    ) -> tuple[bytes, Metadata]:
        """Return the response and the headers before it, without trying again.

        Raises NotFound, RemoteFailed.
        """
        self._check_supported(method)
        headers: Metadata = []
        deadline_s = self._clock.monotonic_s() + timeout_s
        return await self._try(method, request, deadline_s, headers), headers

    async def _retry(
        self, first: RemoteFailed, method: Method, request: bytes, deadline_s: float
    ) -> bytes:
        """Retry after a first failure. This machinery costs as much as the rest of a call."""
        retrying = AsyncRetrying(
            sleep=self._clock.sleep,
            retry=retry_if_exception(_may_do_better),
            wait=self._delay_s,
            stop=lambda state: self._is_enough(state, deadline_s),
            reraise=True,
        )
        failed, tries = False, 0
        # Apart from the retries below: a call that was refused unseen uses up none of those.
        while await self.wait_to_try_again(first, tries, deadline_s):
            try:
                return await self._try(method, request, deadline_s)
            except RemoteFailed as error:
                if not _may_do_better(error):
                    raise
                first, tries = error, tries + 1

        async def attempt() -> bytes:
            nonlocal failed
            # As if it had happened inside, so that tenacity counts it.
            if not failed:
                failed = True
                raise first
            return await self._try(method, request, deadline_s)

        return await retrying(attempt)

    async def _try(
        self,
        method: Method,
        request: bytes,
        deadline_s: float,
        headers: Metadata | None = None,
    ) -> bytes:
        async with self._running(method) as run:
            connection, metadata = await self._connected(run)
            left_s = max(deadline_s - run.started_s, 0.001)
            # Nothing about it takes long, so silence is a sign sooner.
            if method.is_quick:
                left_s = min(left_s, self._settings.stall_s)
            with connection.in_use():
                call = connection.unary(method)(request, timeout=left_s, metadata=metadata)
                response = await self._response(call)
                if headers is not None:
                    headers.extend(await call.initial_metadata())
            self._measures.sent(len(request))
            self._measures.received(len(response))
            # After it, as only the answer tells its size: the debt delays the next call.
            await self._brake(len(request) + len(response))
            return response

    async def _response(self, call: Awaitable[bytes]) -> bytes:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc(self._settings.name, error) from None
        except asyncio.CancelledError:
            raise_if_cancelled()
            detail = "the connection was closed"
            raise failure(self._settings.name, FailureKind.CLOSED, detail) from None

    @asynccontextmanager
    async def incoming(self, method: Method, request: bytes) -> AsyncIterator[IncomingStream]:
        """Run a call with many responses. Raises NotFound, RemoteFailed, here and when read."""
        async with self._stream(method) as (connection, metadata, run):
            call = connection.server_stream(method)(request, metadata=metadata)
            try:
                yield IncomingStream(call, method, self._times(), run)
            finally:
                call.cancel()

    @asynccontextmanager
    async def outgoing(self, method: Method) -> AsyncIterator[OutgoingStream]:
        """Run a call with many requests. Raises NotFound, RemoteFailed, here and when written."""
        async with self._stream(method) as (connection, metadata, run):
            call = connection.client_stream(method)(metadata=metadata)
            try:
                yield OutgoingStream(call, self._times(), run)
            finally:
                call.cancel()

    @asynccontextmanager
    async def _stream(self, method: Method) -> AsyncIterator[tuple[Connection, Metadata, Run]]:
        async with self._running(method, stream=True) as run:
            connection, metadata = await self._connected(run)
            with connection.in_use():
                yield connection, metadata, run

    async def _connected(self, run: Run) -> tuple[Connection, Metadata]:
        """Return the connection and the metadata for a call that begins now."""
        connection, metadata = await self._connect()
        # Anew: reading secrets or running a helper is no time of the remote's.
        run.started_s = self._clock.monotonic_s()
        if run.traced is not None:
            metadata.extend(run.traced.headers)
        return connection, metadata

    def _came(self, run: Run) -> None:
        run.is_answered = True
        self._answered += 1

    async def wait_to_try_again(self, error: RemoteFailed, tries: int, until_s: float) -> bool:
        """Wait before a stream without any response is tried again; False: it is not to be.

        Only calls that the remote has not processed are tried again: those it refused for their
        number, and those that stalled while others were answered. gRPC silently holds back calls
        beyond the number that the remote has announced.
        """
        # With half as many calls as it answered meanwhile none waits for as long.
        enough = error.others_answered // 2
        held_back = bool(error.others_answered) and enough < self._settings.concurrency
        # Bounded, as it is a guess: the remote may really hang on this very blob.
        if error.kind is FailureKind.STALLED and held_back and tries < _STALLS_MAX:
            self.slots.refused(enough)
        elif error.kind is not FailureKind.CROWDED:
            return False
        delay_s = min(_CROWDED_FIRST_S * 2.0 ** min(tries, 10), _CROWDED_MAX_S)
        delay_s *= self._random.uniform(1 - _JITTER, 1 + _JITTER)
        if self._clock.monotonic_s() + delay_s >= until_s:
            return False
        await self._clock.sleep(delay_s)
        return True

    def _times(self) -> StreamTimes:
        return StreamTimes(
            remote=self._settings.name,
            stall_s=self._settings.stall_s,
            answer_s=self._settings.request_timeout_s,
            clock=self._clock,
            measures=self._measures,
            brake=self._brake,
            on_first=self._came,
        )

    @asynccontextmanager
    async def _running(self, method: Method, *, stream: bool = False) -> AsyncIterator[Run]:
        """Hold a slot, and count the call however it ends."""
        async with self.slots.one():
            run = Run(self._clock.monotonic_s(), self._measures.begun(method), self._answered)
            finished = False
            try:
                yield run
                finished = True
            except (NotFound, RemoteFailed) as error:
                run.failed(error)
                raise
            finally:
                self._ended(method, run, OK if finished else LEFT, stream)

    def _ended(self, method: Method, run: Run, outcome: str, stream: bool) -> None:
        error = run.error
        if isinstance(error, NotFound):
            outcome = NOT_FOUND
        elif error is not None:
            if error.kind is FailureKind.CROWDED:
                self.slots.refused()
            if stream and not run.is_answered:
                error.others_answered = self._answered - run.answered_before
            outcome = str(error.kind)
            if isinstance(error, Unsupported) and not stream:
                # Of a stream it may be the resource's compressor that is not supported.
                self._lacking.unimplemented(method, self._clock.monotonic_s())
            self._on_failure(error)
        # Each of these comes from a method that is there.
        if outcome == OK or isinstance(error, NotFound | RequestRefused):
            self._lacking.answered(method)
        if outcome in {OK, NOT_FOUND}:
            self.slots.went_well()
        taken_s = self._clock.monotonic_s() - run.started_s
        self._measures.ended(method.name, outcome, taken_s, run.traced)

    def _check_supported(self, method: Method) -> None:
        if not self.lacks(method):
            return
        raise failure(
            self._settings.name,
            FailureKind.UNSUPPORTED,
            f"it has no {method.service}/{method.name}",
        )

    async def _brake(self, size_bytes: int) -> None:
        wait_s = self.bandwidth.spend(size_bytes, self._clock.monotonic_s())
        if wait_s > 0:
            await self._clock.sleep(wait_s)

    def _delay_s(self, state: RetryCallState) -> float:
        delay_s = self._settings.retry_delay_s * 2.0 ** min(state.attempt_number - 1, 30)
        delay_s *= self._random.uniform(1 - _JITTER, 1 + _JITTER)
        error = state.outcome.exception() if state.outcome is not None else None
        asked_s = error.retry_after_s if isinstance(error, RemoteFailed) else None
        # Never earlier than the remote asked (RetryInfo).
        return max(delay_s, asked_s or 0.0)

    def _is_enough(self, state: RetryCallState, deadline_s: float) -> bool:
        if state.attempt_number > self._settings.retry_limit:
            return True
        return self._clock.monotonic_s() + state.upcoming_sleep >= deadline_s


def _may_do_better(error: BaseException) -> bool:
    """Whether to retry soon.

    Not after a limit of this node, which a retry does not raise, nor after a timeout: the time of
    the call is used up.
    """
    if not isinstance(error, RemoteFailed) or not error.is_retryable:
        return False
    return error.kind not in {FailureKind.BUSY, FailureKind.TIMEOUT}
