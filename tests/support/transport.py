"""A call on no wire at all: what it brings is given, what it is sent is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from federation.access.incoming_call import Headers, ShownCertificate, parse_peer
from federation.services.status_codes import CallStatus
from federation.services.transport import CallEnded

PEER = "ipv4:10.0.0.1:1000"


class FakeTransport:
    """A Transport. Its messages come at once; then the caller half-closes, or keeps silent."""

    def __init__(
        self, peer: str = PEER, *messages: bytes, headers: Headers = (), silent: bool = False
    ) -> None:
        self.peer = parse_peer(peer)
        self.headers = headers
        self.sent: list[bytes] = []
        self.sent_headers: list[tuple[str, str]] = []
        self.aborted: CallStatus | None = None
        self.takes = asyncio.Event()  # while it is not set, write() does not return
        self.takes.set()
        self.is_gone = False
        self.known_size: int | None = None  # of the next message
        self.known_came_bytes = 0
        self._messages = list(messages)
        self._silent = silent
        self._over = asyncio.Event()

    def certificate(self) -> ShownCertificate:
        return ShownCertificate()

    def leave(self) -> None:
        """The caller is gone."""
        self.is_gone = True
        self._over.set()
        self.takes.set()

    def next_size(self) -> int | None:
        return self.known_size

    def came_bytes(self) -> int:
        return self.known_came_bytes

    def is_ready(self) -> bool:
        return False

    def is_ended(self) -> bool:
        return False

    async def read(self) -> bytes | None:
        if self._messages:
            return self._messages.pop(0)
        if self._silent:
            await self._over.wait()
        if self.is_gone:
            raise CallEnded
        return None

    async def write(self, message: bytes, rest: bytes = b"") -> None:
        await self.takes.wait()
        if self.is_gone:
            raise CallEnded
        self.sent.append(message + rest)

    async def send_headers(self, headers: Sequence[tuple[str, str]]) -> None:
        self.sent_headers += headers

    async def abort(self, status: CallStatus) -> None:
        self.aborted = status
        self.leave()


class FakeConnections:
    """Connections that have brought nothing; breaking one off ends its calls."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self.calls: list[FakeTransport] = []
        self._loop = asyncio.get_running_loop()

    def received_from(self, peers: Collection[str]) -> dict[str, int]:
        return dict.fromkeys(peers, 0)

    def break_off(self, peer: str) -> None:
        self.broken.append(peer)
        for call in self.calls:
            if call.peer.text == peer:
                self._loop.call_soon_threadsafe(call.leave)
