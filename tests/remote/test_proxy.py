"""Connections through an HTTP proxy, which the environment names as for other programs."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.config.types import Address
from federation.core.http_proxy import proxy_for
from federation.remote.connection import proxy_options
from federation.remote.credentials import Certificates
from federation.remote.failures import RemoteFailed
from federation.remote.methods import CAPABILITIES
from federation.remote.one_call import call_once, fetch_certificate
from federation.remote.settings import RemoteSettings
from tests.support.certificates import self_signed
from tests.support.environment import clear_proxies


def test_tests_go_through_no_proxy_of_whoever_runs_them() -> None:
    environment = dict.fromkeys(["HTTPS_PROXY", "http_proxy", "grpc_proxy", "NO_PROXY"], "p:1")
    environment["HOME"] = "/"
    clear_proxies(environment)
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize(
    ("environment", "authority", "tls", "expected"),
    [
        ({}, "a.example.com:1", True, None),
        ({"HTTPS_PROXY": "http://p:3128"}, "a.example.com:1", True, "http://p:3128"),
        ({"https_proxy": "http://p:3128"}, "a.example.com:1", True, "http://p:3128"),
        ({"HTTPS_PROXY": "p:3128"}, "a.example.com:1", True, "http://p:3128"),
        ({"HTTPS_PROXY": "http://p:3128"}, "a.example.com:1", False, None),
        ({"http_proxy": "http://p:3128"}, "a.example.com:1", True, None),
        ({"http_proxy": "http://p:3128"}, "a.example.com:1", False, "http://p:3128"),
        ({"HTTPS_PROXY": "x:1", "https_proxy": "y:1"}, "a:1", True, "http://y:1"),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "example.com"}, "a.example.com:1", True, None),
        ({"HTTPS_PROXY": "p:1", "no_proxy": "b.c, .example.com"}, "a.example.com:1", True, None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "*"}, "a.example.com:1", True, None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "10.0.0.5"}, "10.0.0.5:1", True, None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "a:1"}, "a:1", True, None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "a:2"}, "a:1", True, "http://p:1"),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "ample.com"}, "a.example.com:1", True, "http://p:1"),
    ],
)
def test_the_environment_is_read_as_other_programs_do(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    authority: str,
    tls: bool,
    expected: str | None,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(authority, tls=tls) == expected


def test_without_a_proxy_grpc_looks_for_none_by_itself() -> None:
    assert proxy_options("a:1", tls=True) == [("grpc.enable_http_proxy", 0)]


class TunnelProxy:
    """Opens tunnels to one server, whatever is asked for, or refuses them."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.answer = answer
        self.heard: list[bytes] = []
        self.server_port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        await writer.drain()
        if self.answer.startswith(b"HTTP/1.1 200"):
            there, back = await asyncio.open_connection("127.0.0.1", self.server_port)
            await asyncio.gather(carry(reader, back), carry(there, writer))
        writer.close()


async def carry(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            to.write(data)
            await to.drain()
    except OSError:
        return  # one of the two has gone
    finally:
        to.close()


@asynccontextmanager
async def listening(proxy: TunnelProxy, folder: Path) -> AsyncIterator[tuple[int, bytes]]:
    """Serve a proxy, and TLS behind it; yield the proxy's port and the certificate's hash."""
    files = self_signed(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    behind = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    proxy.server_port = behind.sockets[0].getsockname()[1]
    front = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    der = ssl.PEM_cert_to_DER_cert(files.certificate.read_text())
    try:
        yield front.sockets[0].getsockname()[1], hashlib.sha256(der).digest()
    finally:
        front.close()
        behind.close()


CACHE = Address("cache.example.com", 11002)


async def test_a_certificate_is_fetched_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy = TunnelProxy()
    async with listening(proxy, tmp_path) as (port, expected):
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@127.0.0.1:{port}")
        pem = await fetch_certificate("it", CACHE, expected, Certificates())
    assert pem.startswith(b"-----BEGIN CERTIFICATE")
    (head,) = proxy.heard
    assert head.startswith(b"CONNECT cache.example.com:11002 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in head


@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 Who\r\n\r\n", b"x" * 100_000, b"", b"\r\n\r\n"])
async def test_a_proxy_that_refuses_is_named_and_its_password_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes
) -> None:
    proxy = TunnelProxy(answer)
    async with listening(proxy, tmp_path) as (port, expected):
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{port}")
        with pytest.raises(RemoteFailed) as failed:
            await fetch_certificate("it", CACHE, expected, Certificates())
    assert "secret" not in str(failed.value)


async def test_calls_to_servers_go_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy = TunnelProxy(b"HTTP/1.1 403 No\r\n\r\n")
    async with listening(proxy, tmp_path) as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{port}")
        settings = RemoteSettings(name="it", url=f"https://{CACHE}")
        with pytest.raises(RemoteFailed):
            await call_once(settings, Certificates(), CAPABILITIES, b"")
    assert proxy.heard[0].startswith(b"CONNECT cache.example.com:11002 HTTP/1.1\r\n")
