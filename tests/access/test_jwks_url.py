"""The fetch of keys from a URL, by a server on loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.access.jwks_url import KeysUnavailable, fetch_jwks
from tests.access.test_jwt import OTHER_RSA, RSA, jwk, jwks
from tests.support.certificates import self_signed

URL = "https://id.example.com/jwks"
OLD, NEW = jwk(RSA, kid="old"), jwk(OTHER_RSA, kid="new")


def answer(body: bytes = b"{}", status: str = "200 OK", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def serving(
    reply: bytes, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answer every request so; yield the port, and the heads of requests as they come."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()


async def fetch(port: int, scheme: str = "http", server_cert: Path | None = None) -> bytes:
    return await fetch_jwks(f"{scheme}://127.0.0.1:{port}/jwks", server_cert, 1000)


async def test_a_fetch_asks_once_and_returns_the_answer() -> None:
    async with serving(answer(jwks(OLD))) as (port, heard):
        assert await fetch(port) == jwks(OLD)
    (head,) = heard
    assert head.startswith(b"GET /jwks HTTP/1.1\r\n")
    assert b"Authorization" not in head
    assert b"gzip" not in head


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (answer(status="404 Not Found"), "status 404"),
        (answer(b"", "302 Found", "Location: /elsewhere"), "redirects are not followed"),
        (answer(bytes(1001)), "more than 1000 bytes"),
        (answer(b"{}").replace(b"Content-Length: 2", b"Content-Length: 9"), "."),
        (b"nonsense\r\n\r\n", "."),
        (b"", "."),
    ],
)
async def test_anything_but_a_whole_answer_is_a_failure(reply: bytes, says: str) -> None:
    async with serving(reply) as (port, heard):
        with pytest.raises(KeysUnavailable, match=says):
            await fetch(port)
    assert heard
    with pytest.raises(KeysUnavailable):  # nobody listens there any more
        await fetch(port)


def of(path: Path) -> Path:
    return path


def other_than(path: Path) -> Path:
    return self_signed(path.parent, "other").certificate


def not_given(_path: Path) -> None:
    return None


def absent(path: Path) -> Path:
    return path.with_name("absent.crt")


@pytest.mark.parametrize(
    ("choose", "works"), [(of, True), (other_than, False), (not_given, False), (absent, False)]
)
async def test_the_servers_certificate_is_checked(
    tmp_path: Path, choose: Callable[[Path], Path | None], works: bool
) -> None:
    files = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    async with serving(answer(b"{}"), context) as (port, _):
        if works:
            assert await fetch(port, "https", choose(files.certificate)) == b"{}"
        else:
            with pytest.raises(KeysUnavailable):
                await fetch(port, "https", choose(files.certificate))


async def test_a_fetch_goes_through_the_proxy_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(answer(b"", "403 Forbidden")) as (port, heard):
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{port}")
        with pytest.raises(KeysUnavailable) as failed:
            await fetch_jwks(URL, None, 1000)
    assert heard[0].startswith(b"CONNECT id.example.com:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " in heard[0]
    assert "secret" not in str(failed.value)


async def test_no_proxy_comes_between_where_nothing_proves_whose_keys_these_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        serving(answer(jwks(NEW))) as (proxy, heard),
        serving(answer(jwks(OLD))) as (port, _),
    ):
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        assert await fetch(port) == jwks(OLD)
    assert not heard
