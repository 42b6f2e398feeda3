"""Turns the HTTP/2 events of one connection into calls, their data and their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ngh2 import events as http2

from federation.services.pipeline import Pipeline
from federation.services.status_codes import CallStatus, StatusCode
from federation.transport.call import Http2Call, Wire
from federation.transport.headers import (
    BEGINNING,
    BadRequest,
    Fields,
    NotGrpc,
    Request,
    parse_request,
    trailers,
)
from federation.transport.incoming import ReceiveBounds

_REQUESTS_KEPT = 8  # parsed headers, as most calls of a connection have the same

NOT_FOUND = CallStatus(StatusCode.UNIMPLEMENTED, "Method not found!")
TOO_LARGE = StatusCode.RESOURCE_EXHAUSTED


class Route(NamedTuple):
    """One method."""

    pipeline: Pipeline
    answers_once: bool  # what the pipeline returns is the message, not the end of many
    bounds: ReceiveBounds


class NewCall(NamedTuple):
    """A call that is to be served."""

    call: Http2Call
    route: Route
    timeout_s: float | None


def _answered_at_once(new: NewCall) -> bool:
    return new.call.answer_at_once(new.route.pipeline)


class Http2Calls:
    """The calls of one connection, until their streams are closed."""

    def __init__(self, routes: Mapping[bytes, Route]) -> None:
        self.by_stream: dict[int, Http2Call] = {}
        self.refused_headers = 0  # how many calls were turned away for too large headers
        self._routes = routes
        self._new: list[NewCall] = []
        self._fed: set[Http2Call] = set()
        self._parsed: dict[Fields, Request] = {}

    def __repr__(self) -> str:
        return f"<Http2Calls {len(self.by_stream)}>"

    def __len__(self) -> int:
        return len(self.by_stream)

    def take(self, events: Sequence[http2.Event], wire: Wire) -> list[NewCall]:
        """Hand on what happened; return the calls that have begun, and are not over already.

        Small calls that wait for nothing are answered here. wire: the connection. It is not kept,
        since the cycle would keep its memory until a full garbage collection.
        """
        # Of calls that are over as they begin nothing is made: with rapid resets, most are.
        over = {each.stream_id for each in events if type(each) is http2.StreamClosed}
        for event in events:
            if type(event) is http2.DataReceived:
                self._on_data(event, wire)
            elif isinstance(event, http2.RequestReceived):
                if event.stream_id not in over:
                    self._on_request(event, wire)
            elif isinstance(event, http2.StreamClosed):
                self._on_closed(event)
            elif isinstance(event, http2.TrailersReceived):
                self._feed(event.stream_id, b"", end=True)
        for call in self._fed:
            call.settle()
        self._fed.clear()
        new, self._new = self._new, []
        return [each for each in new if not each.call.is_over and not _answered_at_once(each)]

    def _on_request(self, event: http2.RequestReceived, wire: Wire) -> None:
        stream = event.stream_id
        try:
            request = self._parse(event.headers)
        except NotGrpc as error:
            wire.note_refused()
            answer = ((b":status", b"%d" % error.http_status),)
            wire.session.begin(stream, answer, end=True)
            return
        except BadRequest as error:
            self.refused_headers += error.status.code is TOO_LARGE
            _turn_away(wire, stream, error.status)
            return
        route = self._routes.get(request.path)
        if route is None:
            _turn_away(wire, stream, NOT_FOUND)
            return
        call = self.by_stream[stream] = Http2Call(wire, stream, request, route.bounds)
        self._new.append(NewCall(call, route, request.timeout_s))
        if event.end_stream:
            call.receive(b"", end=True)

    def _parse(self, fields: Fields) -> Request:
        request = self._parsed.get(fields)
        if request is None:
            request = parse_request(fields)
            if len(self._parsed) >= _REQUESTS_KEPT:
                self._parsed.pop(next(iter(self._parsed)))
            self._parsed[fields] = request
        return request

    def _on_data(self, event: http2.DataReceived, wire: Wire) -> None:
        if not self._feed(event.stream_id, event.data, end=event.end_stream):
            wire.session.acknowledge(event.stream_id, len(event.data))

    def _feed(self, stream: int, data: bytes, *, end: bool) -> bool:
        call = self.by_stream.get(stream)
        if call is None:
            return False
        call.receive(data, end=end)
        self._fed.add(call)
        return True

    def _on_closed(self, event: http2.StreamClosed) -> None:
        call = self.by_stream.pop(event.stream_id, None)
        if call is None:
            return
        self._fed.discard(call)
        if event.error_code or not call.is_over:
            call.leave()
        else:
            call.closed()

    def expire(self, now_s: float) -> None:
        """End those whose deadlines have passed."""
        for call in list(self.by_stream.values()):
            if call.deadline_s is not None and now_s >= call.deadline_s:
                call.expire()

    def leave(self) -> None:
        """The connection is gone, and all calls with it."""
        found, self.by_stream = list(self.by_stream.values()), {}
        for call in found:
            call.leave()
        self._parsed.clear()
        self._fed.clear()


def _turn_away(wire: Wire, stream: int, status: CallStatus) -> None:
    wire.note_refused()
    wire.session.begin(stream, (*BEGINNING, *trailers(status)), end=True)
