"""What the HTTP face answers, and that it answers whatever state the node is in."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import pytest

from federation.core.errors import CannotStart
from federation.observability.metrics import Metrics
from federation.server.http import HttpServer, Pages
from federation.server.http import bounded_server as web_server
from federation.server.http.asking import Asker, CannotAsk
from federation.server.readiness import Phase, Readiness
from federation.server.unix_socket import listen_unix


class Face:
    def __init__(self) -> None:
        self.health = (True, "")
        self.metrics = Metrics()
        self.readiness = Readiness(lambda: self.health)
        self.about = {"node": "<paris>", "listeners": [{"address": "127.0.0.1:1"}]}
        self.pages = Pages(self.metrics, self.readiness, lambda: self.about)

    def set(self, phase: Phase, health: tuple[bool, str] = (True, "")) -> None:
        self.health = health
        self.readiness.phase = phase
        self.readiness.refresh()


@pytest.fixture
def face() -> Face:
    return Face()


@asynccontextmanager
async def served(face: Face) -> AsyncIterator[aiohttp.ClientSession]:
    server = HttpServer("127.0.0.1:0", face.pages.answer)
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://{server.place}") as session:
            yield session
    finally:
        await server.stop()


async def get(session: aiohttp.ClientSession, path: str, **kwargs: Any) -> tuple[int, str]:
    async with session.get(path, **kwargs) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("phase", "health", "code", "facts"),
    [
        (Phase.SERVING, (True, ""), 200, {"status": "serving"}),
        (Phase.SERVING, (True, "disk full"), 503, {"status": "degraded", "reason": "disk full"}),
        (Phase.SERVING, (False, "broken"), 503, {"status": "unavailable", "reason": "broken"}),
        (Phase.STARTING, (True, ""), 503, {"status": "unavailable", "reason": "starting"}),
        (Phase.DRAINING, (True, ""), 503, {"status": "unavailable", "reason": "draining"}),
    ],
)
async def test_ready_only_while_calls_are_wanted(
    face: Face, phase: Phase, health: tuple[bool, str], code: int, facts: dict[str, str]
) -> None:
    face.set(phase, health)
    async with served(face) as session:
        status, text = await get(session, "/readyz")
        assert (status, json.loads(text)) == (code, facts)
        assert (await get(session, "/healthz"))[0] == 200


async def test_o18_answers_come_from_memory_while_storage_is_stuck(face: Face) -> None:
    face.set(Phase.SERVING)

    def stuck() -> NoReturn:
        pytest.fail("a request asked storage")

    face.readiness._storage_health = stuck
    async with served(face) as session:
        for path in ("/", "/readyz", "/healthz", "/metrics"):
            assert (await get(session, path))[0] == 200


async def test_metrics_are_in_the_exposition_format(face: Face) -> None:
    face.metrics.requests.labels(method="a/B", code="OK").inc(3)
    async with served(face) as session, session.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        text = await answer.text()
    assert 'federation_requests_total{code="OK",method="a/B"} 3.0' in text


async def test_the_index_is_json_for_programs(face: Face) -> None:
    face.set(Phase.SERVING)
    async with served(face) as session:
        _, text = await get(session, "/")
        assert json.loads(text)["node"] == "<paris>"


async def test_other_paths_and_methods_are_refused(face: Face) -> None:
    async with served(face) as session:
        assert (await get(session, "/nothing"))[0] == 404
        assert (await get(session, "/../etc/passwd"))[0] == 404
        async with session.post("/metrics", data=b"x" * 100_000) as answer:
            assert answer.status == 405
        async with session.head("/healthz") as answer:
            assert answer.status == 200


async def test_o17_a_taken_port_is_an_error(face: Face) -> None:
    async with served(face) as session:
        assert session._base_url is not None
        taken = str(session._base_url.authority)
        server = HttpServer(taken, face.pages.answer)
        with pytest.raises(CannotStart, match=f"cannot listen on {taken}: Address already in use"):
            await server.start()
        await server.stop()


async def test_the_first_connections_at_once_are_all_answered(face: Face) -> None:
    face.set(Phase.SERVING)
    async with served(face) as session, asyncio.timeout(60):
        answers = await asyncio.gather(*(get(session, "/healthz") for _ in range(20)))
    assert {status for status, _ in answers} == {200}


async def test_a_first_connection_that_is_reset_does_not_end_the_listener(face: Face) -> None:
    async with served(face) as session, asyncio.timeout(60):
        _, writer = await asyncio.open_connection(*place(session))
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
        assert (await get(session, "/healthz"))[0] == 200


async def test_l01_connections_above_the_bound_are_closed_at_once(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "_LOCAL_MAX", 3)
    async with served(face) as session, asyncio.timeout(60):
        ends = [await asyncio.open_connection(*place(session)) for _ in range(5)]
        for reader, _ in ends[3:]:
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        reader, writer = ends[0]
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        for _, writer in ends:
            writer.close()


async def test_l01_headers_that_never_end_are_not_waited_for(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "_IDLE_S", 0.2)
    async with served(face) as session, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(*place(session))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost:")
        assert await reader.read() == b""
        writer.close()


def place(session: aiohttp.ClientSession) -> tuple[str, int]:
    url = session._base_url
    assert url is not None
    assert url.host is not None
    assert url.port is not None
    return url.host, url.port


async def test_who_asks_a_process_keeps_the_connection(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30) / "own.sock"
    path.parent.mkdir()
    connections: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage")
        writer.close()

    server = await asyncio.start_unix_server(answer, sock=listen_unix(path, 0o600))
    async with aclosing(Asker(path)) as asker:
        for _ in range(3):
            assert await asker.ask("/readyz", 60.0) == (200, "page")
        assert len(connections) == 1
        with pytest.raises(CannotAsk, match="more than 2 bytes"):
            await asker.ask("/readyz", 60.0, 2)
        assert await asker.ask("/readyz", 60.0) == (200, "page")
    server.close()
    path.unlink()
    async with aclosing(Asker(path)) as asker:
        with pytest.raises(CannotAsk):
            await asker.ask("/readyz", 60.0)
