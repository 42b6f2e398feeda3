"""A proxy before an S3 server that can cut it off, keep it waiting, or answer in its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_BLOCK = 64 * 1024


class BucketProxy:
    """Passes bytes on; the methods change what happens to connections from then on."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = parts.hostname, parts.port
        self._answer: bytes | None = None
        self._is_away = False
        self._is_silent = False
        self._open: set[asyncio.StreamWriter] = set()
        self.endpoint = ""

    def cut(self) -> None:
        """Break all connections, and each new one."""
        self._is_away = True
        self._break()

    def silence(self) -> None:
        """Take connections and bytes, and answer nothing."""
        self._is_silent = True
        self._break()

    def answer(self, status: int, code: str) -> None:
        """Answer every request with a status and an S3 error code."""
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._answer = head.encode() + body
        self._break()

    def restore(self) -> None:
        """Pass everything on again."""
        self._is_away, self._is_silent, self._answer = False, False, None
        self._break()

    def _break(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                if self._is_away:
                    writer.transport.abort()
                elif self._is_silent:
                    while await reader.read(_BLOCK):
                        pass
                elif self._answer is not None:
                    await _take_request(reader)
                    writer.write(self._answer)
                    await writer.drain()
                else:
                    await self._pass_on(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(*self._target)
        self._open.add(forth)
        try:
            tasks = [
                asyncio.ensure_future(_pump(reader, forth)),
                asyncio.ensure_future(_pump(back, writer)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._open.discard(forth)
            forth.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BLOCK):
        writer.write(data)
        await writer.drain()


async def _take_request(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))


@asynccontextmanager
async def proxied(endpoint: str) -> AsyncIterator[BucketProxy]:
    """Run a proxy before a server on this loop."""
    proxy = BucketProxy(endpoint)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        proxy.cut()
        server.close()
        await server.wait_closed()
