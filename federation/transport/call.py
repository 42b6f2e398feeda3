"""One call: a stream of HTTP/2 as services/transport.py wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from ngh2 import ErrorCode

from federation.access.incoming_call import PeerAddress, ShownCertificate
from federation.core.errors import FederationError, LimitReached, RequestTooLarge
from federation.services.method import AT_ONCE_REQUEST, SMALL_ANSWER
from federation.services.pipeline import Pipeline
from federation.services.status_codes import OK, CallStatus, StatusCode
from federation.services.transport import CallEnded
from federation.transport.framing import (
    PREFIX_BYTES,
    MalformedMessage,
    Packed,
    TooLong,
    prefix_of,
    unpack,
)
from federation.transport.headers import BEGINNING, Request, beginning, trailers
from federation.transport.incoming import ReceiveBounds, ReceivedStream
from federation.transport.refusals import REFUSALS
from federation.transport.senders import Senders
from federation.transport.session import Session

_UNPACKED_HERE_BYTES = 2**14  # more is unpacked in a thread
_JOINED_BYTES = 2**10  # less is copied rather than handed over by itself
# Answers so small need not be waited for, one and all of a connection, if the client takes them.
_SMALL_ANSWER_BYTES, _SMALL_ANSWERS_BYTES = SMALL_ANSWER + PREFIX_BYTES, 2**18


class Wire(Protocol):
    """What calls need of their connection."""

    session: Session
    peer: PeerAddress
    is_paused: bool  # the client takes nothing now
    waiting: Senders  # calls, for what they have sent to be on its way
    delivered_bytes: int  # of messages that were read

    def certificate(self) -> ShownCertificate:
        """Return what the client showed in the handshake."""
        ...

    def flush_soon(self) -> None:
        """Send what the session has, soon."""
        ...

    def count_unread(self, by_bytes: int) -> None:
        """Count bytes that have come and that nobody reads yet."""
        ...

    def note_refused(self) -> None:
        """Count a call that has no right to be served, or that nobody serves."""
        ...


class Http2Call:
    """One call; implements Transport of services/transport.py."""

    __slots__ = (
        "_begun",
        "_bounds",
        "_encoding",
        "_incoming",
        "_reader",
        "_session",
        "_waiter",
        "_wire",
        "deadline_s",
        "headers",
        "is_closed",
        "is_over",
        "peer",
        "stream",
        "task",
    )

    def __init__(self, wire: Wire, stream: int, request: Request, bounds: ReceiveBounds) -> None:
        """Take what the headers said."""
        self.stream = stream
        self.peer = wire.peer
        self.headers = request.headers
        self.deadline_s: float | None = None
        self.task: asyncio.Task[None] | None = None
        self.is_over = False  # nothing more is taken, and the status is said
        self.is_closed = False  # nothing more is sent
        self._wire = wire
        self._session = wire.session
        self._encoding = request.encoding
        self._bounds = bounds
        self._incoming = ReceivedStream(wire.session, stream, bounds, wire.count_unread)
        self._reader: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None  # for what was sent to be on its way
        self._begun = False

    def __repr__(self) -> str:
        return f"<Http2Call on stream {self.stream}, {'over' if self.is_over else 'running'}>"

    # For the pipeline

    def certificate(self) -> ShownCertificate:
        """See IncomingCall."""
        return self._wire.certificate()

    def next_size(self) -> int | None:
        """See Transport."""
        return self._incoming.next_size()

    def came_bytes(self) -> int:
        """See Transport."""
        return self._incoming.held_bytes

    def is_ready(self) -> bool:
        """See Transport."""
        size_bytes = self._incoming.next_size()
        if size_bytes is None:
            return self.is_over or self.is_ended()
        is_whole = self.came_bytes() >= PREFIX_BYTES + size_bytes
        return is_whole and size_bytes <= _UNPACKED_HERE_BYTES

    def is_ended(self) -> bool:
        """See Transport."""
        incoming = self._incoming
        return incoming.is_half_closed and not incoming.held_bytes and not self.is_over

    async def read(self) -> bytes | None:
        """See Transport."""
        while not self.is_over:
            try:
                packed = self._incoming.take()
                if packed is not None:
                    message = await self._unpacked(packed) if packed.compressed else packed.data
                    self._wire.delivered_bytes += len(message)
                    self._wire.flush_soon()
                    return message
            except TooLong as error:
                raise self._too_long(error.size_bytes) from None
            except MalformedMessage as error:
                self.end(CallStatus(StatusCode.INTERNAL, str(error)))
                break
            if self.is_ended():
                return None
            if self._incoming.is_half_closed:
                self.end(CallStatus(StatusCode.INTERNAL, "the call ended within a message"))
                break
            self._incoming.look_ahead()
            self._reader = asyncio.get_running_loop().create_future()
            self.settle()
            await self._reader
            self._reader = None
        raise CallEnded

    def _too_long(self, size_bytes: int) -> FederationError:
        most_bytes = self._bounds.message_bytes
        if size_bytes > most_bytes:
            text = f"a message of {size_bytes} bytes; at most {most_bytes} (limits.message)"
            return LimitReached("limits.message", text)
        most_bytes = self._bounds.request_bytes
        text = f"a request of {size_bytes} bytes; at most {most_bytes}"
        return RequestTooLarge("message.size", text)

    async def _unpacked(self, packed: Packed) -> bytes:
        work = partial(unpack, packed.data, self._encoding, self._bounds.message_bytes)
        if len(packed.data) <= _UNPACKED_HERE_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(None, work)

    def answer_at_once(self, pipeline: Pipeline) -> bool:
        """Answer if all of a small request is here, the method waits for nothing, and the client
        takes a small answer. False: it has to be served by a task.
        """
        if not pipeline.may_answer_at_once or self._wire.is_paused:
            return False
        if self._incoming.held_bytes > AT_ONCE_REQUEST + PREFIX_BYTES:
            return False
        request = self._incoming.only()
        room = self.stream, _SMALL_ANSWER_BYTES, _SMALL_ANSWERS_BYTES
        if request is None or not self._session.has_room(*room):
            return False
        answer = pipeline.answer_at_once(self, request)
        if answer is None:
            return False
        if isinstance(answer, CallStatus):
            self.end(answer)
        else:
            self._send(answer)
            self.end(OK)
        return True

    async def write(self, message: bytes, rest: bytes = b"") -> None:
        """See Transport."""
        if self.is_over:
            raise CallEnded
        self._send(message, rest)
        del message, rest
        await self._sent()
        if self.is_over:
            raise CallEnded

    async def send_headers(self, headers: Sequence[tuple[str, str]]) -> None:
        """See Transport."""
        if not self.is_over and not self._begun:
            self._begun = True
            self._session.begin(self.stream, beginning(headers))
            self._wire.flush_soon()

    async def abort(self, status: CallStatus) -> None:
        """See Transport."""
        self.end(status)

    async def answer(self, answer: bytes | CallStatus, *, is_message: bool) -> None:
        """Send what the pipeline returned, and end the call; returns when that is on its way."""
        if self.is_over:
            return
        if isinstance(answer, CallStatus):
            self.end(answer)
        else:
            if is_message:
                self._send(answer)
            self.end(OK)
        await self._sent()

    def _send(self, message: bytes, rest: bytes = b"") -> None:
        if not self._begun:
            self._begun = True
            self._session.begin(self.stream, BEGINNING)
        prefix = prefix_of(len(message) + len(rest))
        if len(message) <= _JOINED_BYTES:
            self._session.send(self.stream, prefix + message, rest)
        else:
            self._session.send(self.stream, prefix, message, rest)

    async def _sent(self) -> None:
        """Return when what was sent is on its way, or soon will be, or the stream is closed."""
        self._wire.flush_soon()
        fits = self._session.fits(self.stream, _SMALL_ANSWER_BYTES, _SMALL_ANSWERS_BYTES)
        if self.is_closed or (fits and not self._wire.is_paused):
            return
        self._waiter = asyncio.get_running_loop().create_future()
        self._wire.waiting.add(self)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._wire.waiting.discard(self)

    # For the connection

    def receive(self, data: bytes, *, end: bool) -> None:
        """Take what came of the stream; settle() once that is all for now."""
        self._incoming.add(data, end=end)

    def settle(self) -> None:
        """Let more come of what is read; once the call is over, whatever comes is dropped."""
        if self.is_over:
            self._incoming.drop()
        elif self._incoming.settle(is_read=self._reader is not None):
            _wake(self._reader)
        self._wire.flush_soon()

    def end(self, status: CallStatus) -> None:
        """Send the status, and take nothing more. Nothing: if the call is over already."""
        if self.is_over:
            return
        if status.code in REFUSALS:
            self._wire.note_refused()
        if self._begun:
            self._session.finish(self.stream, trailers(status))
        else:
            self._begun = True
            self._session.begin(self.stream, (*BEGINNING, *trailers(status)), end=True)
        self._over()

    def _over(self) -> None:
        self.is_over = True
        _wake(self._reader)
        self.settle()

    def expire(self) -> None:
        """Its deadline has passed."""
        self.deadline_s = None
        if self.is_closed:
            return
        if self._waiter is not None:  # what was sent is not taken; a status would wait behind it
            self._session.reset(self.stream, ErrorCode.CANCEL)
        else:
            self.end(CallStatus(StatusCode.DEADLINE_EXCEEDED, "the call's deadline has passed"))
        self.leave()

    def leave(self) -> None:
        """The call is over on the wire, whatever its handler does."""
        self.closed()
        task, self.task = self.task, None  # once: it may be cleaning up when it is told again
        if task is not None:
            task.cancel()

    def closed(self) -> None:
        """The stream is closed."""
        self.is_closed = True
        if not self.is_over or self._incoming.held_bytes:  # most have nothing left to be dropped
            self._over()
        self.wake_sender()

    def wake_sender(self) -> None:
        """Let go on what waits for what it sent, if that is on its way."""
        if self.is_closed or not self._session.queued_bytes(self.stream):
            _wake(self._waiter)


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
