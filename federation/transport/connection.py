"""One connection: its socket, its TLS and HTTP/2, the tasks of its calls, and its times."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ngh2 import ErrorCode
from ngh2 import events as http2

from federation.access.incoming_call import PeerAddress, ShownCertificate, parse_peer
from federation.services.arrivals import OVERHEAD
from federation.services.status_codes import CallStatus, StatusCode
from federation.transport.call import Http2Call
from federation.transport.dispatch import Http2Calls, NewCall
from federation.transport.lifetime import FRAME_S, HANDSHAKE_S, Due, Lifetime
from federation.transport.senders import Senders
from federation.transport.session import Http2Settings, Refused, Session
from federation.transport.socket_options import drop_at_close, send_at_once
from federation.transport.tls import TlsLayer, TlsRefused

if TYPE_CHECKING:
    from federation.transport.server import Http2Server

_READ_BYTES = 2**14  # in one go, of frames that have on average less than
_TINY_BYTES = 2**10
_BUFFERED_BYTES = 2**16  # of what is written and the socket has not taken
_FLUSH_BYTES = 2**20  # written in one go; then other connections have their turn
_FEW_SENDERS = 4

_CANCELLED = CallStatus(StatusCode.CANCELLED, "the call was cancelled")
_ENDING = CallStatus(StatusCode.UNAVAILABLE, "the node ends")


class Http2Connection(asyncio.BufferedProtocol):
    """One connection, made when a client connects; implements Wire of call.py."""

    def __init__(self, server: Http2Server, settings: Http2Settings, tls: TlsLayer | None) -> None:
        now_s = server.clock.monotonic_s()
        self.session = Session(settings, now_s)
        self.peer: PeerAddress = parse_peer("")
        self.is_paused = False
        self.waiting = Senders()
        self.delivered_bytes = 0
        self._server = server
        self._now_s = server.clock.monotonic_s
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._calls = Http2Calls(server.routes)
        self._life = Lifetime(now_s)
        self._transport: asyncio.Transport | None = None
        self._flush_at: asyncio.Handle | None = None
        self._read_bytes = _READ_BYTES
        self._resume_s: float | None = None  # when it is read again
        self._buffered_bytes = 0  # that the socket has not taken, as the budget knows it

    def __repr__(self) -> str:
        return f"<Http2Connection {self.peer.text}, {len(self._calls)} calls>"

    @property
    def received_bytes(self) -> int:
        """How much has come of whole messages, with what services/arrivals.py takes for overhead.

        Of others the size is known, and they are charged for what has come of each.
        """
        return self.delivered_bytes + self.delivered_bytes // OVERHEAD

    # What comes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_BUFFERED_BYTES)
        send_at_once(transport)
        self.peer = self._server.registry.peer_of(transport)
        if not self._server.registry.register(self):
            self.abort()
        elif self._tls is None:
            self.flush_soon()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """See BufferedProtocol: all connections share one, as what is in it is taken at once."""
        return self._server.buffer[: self._read_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        """See BufferedProtocol."""
        data = self._server.buffer[:nbytes]
        now_s = self._now_s()
        self._life.hear(now_s)
        if self._life.is_closing:
            return
        try:
            if self._tls is None:
                self._receive(data, now_s)
            else:
                self._receive_tls(data, self._tls, now_s)
        except Refused as error:
            self._refuse(error)
        except TlsRefused as error:
            self._server.log.tls_refused(self.peer, error.reason, error.detail)
            self._close_now()

    def _receive_tls(self, data: memoryview, tls: TlsLayer, now_s: float) -> None:
        try:
            pieces = tls.receive(data)
        finally:
            self._write(tls.take())
        if self._life.is_established:
            # Below 0 when a record is whole of which a part was counted before.
            self.session.count_overhead(len(data) - sum(map(len, pieces)), now_s)
        for piece in pieces:
            self._receive(piece, now_s)
        if tls.is_ready:
            self.flush_soon()

    def _receive(self, data: bytes | memoryview, now_s: float) -> None:
        events = self.session.receive(data, now_s)
        self._life.frames(now_s, whole=bool(events))
        # Of tiny frames only a few are taken in one go: then others have their turn.
        are_tiny = len(data) < _TINY_BYTES * len(events)
        self._read_bytes = _READ_BYTES if are_tiny else len(self._server.buffer)
        self._take(events)
        self.flush_soon()

    def _take(self, events: Sequence[http2.Event]) -> None:
        had_calls = bool(self._calls)
        for event in events:
            if type(event) is http2.DataReceived:
                continue  # nearly all are
            if isinstance(event, http2.ConnectionClosed):
                if (error := self.session.refusal(event)) is not None:
                    self._report(error)
                self._close()
            elif isinstance(event, http2.SettingsReceived):
                self._life.is_established = True
        for new in self._calls.take(events, self):
            if new.timeout_s is not None:
                self._set_deadline(new.call, new.timeout_s)
            new.call.task = self._server.run(self._serve(new))
        if self._calls.refused_headers:
            self._calls.refused_headers = 0
            self._report(Refused("too large headers", "call.headers"))
        if had_calls and not self._calls:
            self._life.idle(self._now_s())
            if self._life.has_ended:
                self._close()

    async def _serve(self, new: NewCall) -> None:
        call, route, _ = new
        try:
            answer = await route.pipeline.run(call)
            await call.answer(answer, is_message=route.answers_once)
        finally:
            call.end(_CANCELLED)  # nothing, unless the task was cancelled
            call.task = None

    def _set_deadline(self, call: Http2Call, timeout_s: float) -> None:
        if timeout_s < self._server.sweep_s:  # the sweep would come too late
            self._loop.call_later(timeout_s, call.expire)
        else:
            call.deadline_s = self._now_s() + timeout_s

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """See Protocol."""
        self._transport = None
        self._count_buffered()
        self.session.failed = True
        self._server.registry.unregister(self)
        self._calls.leave()

    # What goes

    def pause_writing(self) -> None:
        """See Protocol."""
        self.is_paused = True

    def resume_writing(self) -> None:
        """See Protocol."""
        self.is_paused = False
        self.flush_soon()

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def flush_soon(self) -> None:
        """Send what there is at the end of this turn of the loop: the answers of many calls."""
        if self._flush_at is not None or self._transport is None:
            return
        # Most calls have nothing to send until their answer. Who waits is told that a pause ended.
        if self.session.has_output() or self.waiting or self._life.is_closing:
            self._flush_at = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_at = None
        sent_bytes, is_all = 0, False
        while not self.is_paused and not is_all and self._transport is not None:
            if sent_bytes > _FLUSH_BYTES:
                self.flush_soon()
                break
            data = self.session.output(of_many=len(self.waiting) > _FEW_SENDERS)
            self._write(data if self._tls is None else self._encrypted(data, self._tls))
            sent_bytes += len(data)
            # What made the socket's buffer full is not on its way before that is taken.
            is_all = not data or not (self.is_paused or self.session.has_output())
        self._count_buffered()
        if events := self.session.events():
            self._take(events)
        self.waiting.sent(sent_bytes, is_all=is_all)
        if self._life.is_closing and is_all:
            self._close_now()

    def _count_buffered(self) -> None:
        """Tell the budget what the socket has not taken yet."""
        now_bytes = 0 if self._transport is None else self._transport.get_write_buffer_size()
        if now_bytes != self._buffered_bytes:
            self._server.budget.count(now_bytes - self._buffered_bytes)
            self._buffered_bytes = now_bytes

    def _encrypted(self, data: bytes, tls: TlsLayer) -> bytes:
        try:
            if data:
                tls.send(data)
        except TlsRefused:  # the client has said something that ends TLS
            self.abort()
        return tls.take()

    # For calls: see Wire

    def certificate(self) -> ShownCertificate:
        """See Wire."""
        return ShownCertificate() if self._tls is None else self._tls.shown()

    def count_unread(self, by_bytes: int) -> None:
        """See Wire."""
        self._server.budget.count(by_bytes)

    def note_refused(self) -> None:
        """See Wire."""
        pause_s = self._server.refused.note(self.peer.host)
        if pause_s and self._transport is not None:
            if self._resume_s is None:
                self._transport.pause_reading()
                self._report(Refused("too many refused calls", "calls.refused"))
            self._resume_s = self._now_s() + pause_s

    def look(self, now_s: float) -> None:
        """Do what is due; called several times a second."""
        self._count_buffered()
        if self._resume_s is not None and now_s >= self._resume_s and self._transport is not None:
            self._resume_s = None
            self._transport.resume_reading()
        self._calls.expire(now_s)
        if self.session.is_window_spent:
            self.drain()
        due = self._life.due(now_s, has_calls=bool(self._calls))
        if due is Due.ASK:
            self.session.ping()
            self.flush_soon()
        elif due is Due.DRAIN:
            self.drain()
        elif due is Due.END:
            self._end()
        elif due is Due.DEAD:
            self.abort()
        elif due is Due.LATE_FRAME:
            self._refuse(Refused(f"a frame took longer than {FRAME_S:g} s", "connection.frame"))
        elif due is Due.LATE_HANDSHAKE:
            waited_for = "HTTP/2" if self._tls is None or self._tls.is_ready else "TLS"
            text = f"no {waited_for} within {HANDSHAKE_S:g} s"
            self._refuse(Refused(text, "connection.handshake"))

    def drain(self) -> None:
        """Take no more calls soon, and close once those that run are over."""
        if self._life.is_draining:
            return
        self._life.drain(self._now_s())
        if self._calls and self._life.is_established:
            self.session.announce_end()
            self.flush_soon()
        else:
            self._end()

    def _end(self) -> None:
        self._life.has_ended = True
        self.session.end()
        self.flush_soon()
        if not self._calls:
            self._close()

    def end_calls(self) -> None:
        """End what runs, as the time for that is over."""
        for call in list(self._calls.by_stream.values()):
            call.end(_ENDING)
            call.leave()
        self._close()

    def _close(self) -> None:
        """Close the socket once what is left is sent."""
        self._life.close(self._now_s())
        self.flush_soon()

    def _close_now(self) -> None:
        """Close the socket behind what is written; abort() follows if that is not taken."""
        self._life.close(self._now_s())
        if self._transport is None:
            return
        if self._tls is not None:
            self._tls.end()
            self._write(self._tls.take())
        self._transport.close()

    def abort(self) -> None:
        """Close the socket at once, and have the system drop what it has for the client."""
        if self._transport is None:
            return
        drop_at_close(self._transport)
        self._transport.abort()

    def _refuse(self, error: Refused) -> None:
        self._report(error)
        if self.session.failed or not self._life.is_established:
            self._close_now()
        else:
            self.session.terminate(ErrorCode.ENHANCE_YOUR_CALM)
            self._close()

    def _report(self, error: Refused) -> None:
        if error.limit is not None:
            self._server.hits.hit(error.limit, self.peer.caller, self.peer.text)
        else:
            self._server.log.refused(self.peer, str(error))
