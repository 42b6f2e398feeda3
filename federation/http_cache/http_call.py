"""One HTTP request and its answer, as services/transport.py wants a call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.web_exceptions import HTTPException

from federation.access.incoming_call import Headers, ShownCertificate
from federation.core.errors import InvalidRequest
from federation.core.store import FilePart
from federation.http_cache.answer_head import CONTINUE, Fields, head
from federation.http_cache.statuses import read_status, write_status
from federation.http_cache.target import Target
from federation.http_cache.wire import HttpWire
from federation.services.call import Call
from federation.services.status_codes import CallStatus, StatusCode
from federation.services.transport import CallEnded

PIECE_BYTES = 2**20  # at most, of a body, in one message
_DRAIN_S = 30.0  # for what a client goes on to send behind an answer
_JOINED_BYTES = 2**16  # sending so few bytes twice costs more than joining them
_NO_BODY = frozenset({204, 304})
TEXT: Fields = (("Content-Type", "text/plain"),)  # Nx wants it without a charset
_ASKS_CREDENTIALS = ("WWW-Authenticate", 'Basic realm="federation"')
_READS = frozenset({"GET", "HEAD", "OPTIONS", "PROPFIND", "POST"})  # POST: Turborepo's queries


class HttpCall:
    """One call; implements Transport of services/transport.py."""

    __slots__ = (
        "_begun",
        "_body",
        "_closes",
        "_consumed_bytes",
        "_is_dropping",
        "_length",
        "_promised_bytes",
        "_reading",
        "_request",
        "_sent_bytes",
        "_wants_continue",
        "_wire",
        "answer_fields",
        "answer_status",
        "headers",
        "is_too_large",
        "method",
        "peer",
        "target",
    )

    def __init__(self, wire: HttpWire, request: web.BaseRequest, target: Target) -> None:
        self.method = request.method
        self.peer = wire.peer
        self.headers: Headers = wire.headers_of(request)
        self.target = target
        self.is_too_large = False  # what it brings is larger than is taken
        self.answer_status = 200
        self.answer_fields: Fields = ()
        self._begun = b""  # the head of the answer, until it is sent
        self._promised_bytes: int | None = None  # of the answer's body, once that is said
        self._sent_bytes = 0
        self._wire = wire
        self._request = request
        self._body: StreamReader = request.content
        self._length = _length_of(request)
        self._consumed_bytes = 0
        self._reading: asyncio.Future[None] | None = None
        self._is_dropping = False
        self._closes = not request.keep_alive
        self._wants_continue = "expect" in request.headers

    def __repr__(self) -> str:
        return f"<HttpCall {self.method} {self.target}>"

    # What the request says

    @property
    def length(self) -> int | None:
        """How many bytes the body has; None: it comes in chunks of a number not known."""
        return self._length

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this call."""
        return self._closes or self._wire.is_ending

    def field(self, name: str) -> str | None:
        """Return a header field of the request."""
        return self._request.headers.get(name)

    def refused_at_once(self) -> int | None:
        """Return the status for what no method takes; None: go on."""
        expects = self.field("Expect")
        if expects is not None and expects.lower() != "100-continue":
            return 417
        if self.method != "PUT":
            return None
        # Values come back byte for byte, so what is packed for the way is not taken.
        if self.field("Content-Encoding") not in {None, "identity"}:
            return 415
        # RFC 9110, section 14.5: a PUT of a part must not be taken for one of the whole.
        return 400 if self.field("Content-Range") is not None else None

    # For the pipeline

    def certificate(self) -> ShownCertificate:
        """See IncomingCall."""
        return self._wire.certificate()

    def next_size(self) -> int | None:
        """See Transport: of a body whose size is known, the next piece."""
        if self._length is None:
            return None
        return min(PIECE_BYTES, self._length - self._consumed_bytes)

    def came_bytes(self) -> int:
        """See Transport."""
        return self._body.total_bytes - self._consumed_bytes

    def is_ready(self) -> bool:
        """See Transport."""
        return False

    def is_ended(self) -> bool:
        """See Transport."""
        return False

    async def read(self) -> bytes | None:
        """See Transport."""
        if self._is_dropping or self._reading is not None:
            raise CallEnded
        # Only when the body is wanted: a blob that is held is answered without it (RFC 9110,
        # 10.1.1).
        if self._wants_continue and not self._body.at_eof():
            self._wants_continue = False
            await self._wire.send(CONTINUE)
        self._reading = asyncio.get_running_loop().create_future()
        try:
            data = await self._next()
        finally:
            reading, self._reading = self._reading, None
            if not reading.done():
                reading.set_result(None)
        if self._is_dropping:
            raise CallEnded
        return data or None

    async def _next(self) -> bytes:
        try:
            data = await self._body.read(PIECE_BYTES)
        except (HttpProcessingError, HTTPException, web.RequestPayloadError):
            # Where the next request begins cannot be told any more.
            self._closes = True
            raise InvalidRequest("the body is not framed as HTTP demands") from None
        except (ConnectionError, OSError):
            raise CallEnded from None
        self._consumed_bytes += len(data)
        return data

    async def write(self, message: bytes, rest: bytes = b"") -> None:
        """See Transport: a part of the answer's body, behind its head, which begin() made."""
        self._sent_bytes += len(message) + len(rest)
        await self._send(message)
        if rest:
            await self._send(rest)

    @property
    def sends_files(self) -> bool:
        """Whether send_file() can be called."""
        return self._wire.sends_files

    async def send_file(self, part: FilePart) -> None:
        """See SendsFiles."""
        self._sent_bytes += part.size_bytes
        await self._wire.send_file(part)

    async def _send(self, data: bytes) -> None:
        begun, self._begun = self._begun, b""
        if len(data) <= _JOINED_BYTES:
            await self._wire.send(begun + data)
            return
        await self._wire.send(begun)
        await self._wire.send(data)

    async def send_headers(self, headers: Sequence[tuple[str, str]]) -> None:
        """See Transport: further fields of the answer's head."""
        self.answer_fields = (*self.answer_fields, *headers)

    async def abort(self, status: CallStatus) -> None:
        """See Transport."""
        self._closes = True
        # Once the head is out, only a reset tells the client that its body is not whole.
        if self._promised_bytes is None and not self._is_dropping:
            self._is_dropping = True
            with suppress(CallEnded):
                await self._wire.send(self._refusal(status))
            self._wire.close()
        else:
            self._wire.abort()

    # The answer

    def answers(self, status: int, fields: Fields = ()) -> None:
        """Set the status and fields of the answer's head."""
        self.answer_status = status
        self.answer_fields = fields

    def begin(self, size_bytes: int) -> None:
        """Begin an answer whose body has so many bytes; write() and finish() send it.

        Of an answer to HEAD nothing more than this is sent.
        """
        self._begun = self._head(size_bytes)

    def _head(self, size_bytes: int) -> bytes:
        self._promised_bytes = 0 if self.method == "HEAD" else size_bytes
        status = self.answer_status
        said = None if status in _NO_BODY else size_bytes
        return head(
            status, said, self.answer_fields, closes=self.closes, wall_s=self._wire.wall_s()
        )

    async def finish(self, answer: bytes | CallStatus) -> None:
        """Send what the pipeline returned; then read what is left of the request.

        Raises CallEnded for an answer that cannot be completed: the connection is reset, so that
        the client sees that it is not whole.
        """
        if self._is_dropping:  # it was ended from outside
            return
        if isinstance(answer, CallStatus):
            if self._promised_bytes is not None and not self._begun:
                self._wire.abort()
                raise CallEnded
            self._sent_bytes, self._begun = 0, b""
            data = self._refusal(answer)
        # Head and body in one write: most answers are that small.
        elif self._promised_bytes is None:
            data = self._head(len(answer))
            if self.method != "HEAD":
                data += answer
                self._sent_bytes = len(answer)
        else:
            data = answer
            self._sent_bytes += len(answer)
        if data or self._begun:
            await self._send(data)
        # By the Content-Length that was sent, the client would take the next answer for the rest of
        # this one, or wait for it.
        if self._sent_bytes != self._promised_bytes:
            self._wire.abort()
            raise CallEnded
        if not self._body.at_eof() or self._reading is not None:
            await self._drain()

    def _refusal(self, status: CallStatus) -> bytes:
        is_probe = self.method == "GET" and self.target.is_probe
        if self.method in _READS:
            number = read_status(status.code, is_probe=is_probe)
        else:
            client = self.target.client
            number = write_status(status.code, client, too_large=self.is_too_large)
        fields: Fields = TEXT
        # A browser or curl asks for credentials by this field; sccache's probe is a miss, whatever
        # the reason.
        if status.code is StatusCode.UNAUTHENTICATED and not is_probe:
            fields = (*TEXT, _ASKS_CREDENTIALS)
        self.answers(number, fields)
        # A client that waits for "100 Continue" may send its body although it was refused, or not
        # (RFC 9110, 10.1.1): what comes next on the connection cannot be told.
        self._closes = self._closes or self._wants_continue
        text = f"{status.message}\n".encode()
        found = self._head(len(text))
        if self.method == "HEAD":
            return found
        self._sent_bytes = len(text)
        return found + text

    async def _drain(self) -> None:
        """Read and drop what is left of the body, so that the client gets to read the answer.

        Without, closing the connection would reset it under a client that still sends.
        """
        self._is_dropping = True
        if not (self._wants_continue and not self._body.total_bytes):
            try:
                async with asyncio.timeout(_DRAIN_S):
                    if self._reading is not None:
                        await self._reading
                    while not self._body.at_eof():
                        await self._body.readany()
            except (TimeoutError, OSError, HttpProcessingError, web.RequestPayloadError):
                self._closes = True
        if not self._body.at_eof():
            self._closes = True
            # Otherwise aiohttp would go on to wait for the rest of it.
            self._body.set_exception(ConnectionResetError("nobody reads this body"))


def http_of(call: Call) -> HttpCall:
    """Return the HTTP side of a call."""
    found = call.transport
    assert isinstance(found, HttpCall)
    return found


def _length_of(request: web.BaseRequest) -> int | None:
    if not request.body_exists:
        return 0
    text = request.headers.get("Content-Length")
    return None if text is None else int(text)
