"""What no client should send: a clear status or a closed connection, within bounds."""

from __future__ import annotations

import asyncio
import socket

import pytest

from federation.config.model import LimitsConfig
from federation.core.clock import ManualClock
from federation.core.digest import digest_of
from federation.http_cache.connection import HEAD_S
from federation.http_cache.server import HttpCacheServer
from tests.http_cache.conftest import MakeHttpNode
from tests.http_cache.server import HttpNode, until

HASH = digest_of(b"abc").hash_hex
PUT = f"PUT /cas/{HASH} HTTP/1.1\r\nHost: c\r\n".encode()
GET = f"GET /cas/{HASH} HTTP/1.1\r\nHost: c\r\n\r\n".encode()
CHUNKED = PUT + b"Transfer-Encoding: chunked\r\n\r\n"


async def last_words(http: HttpNode, data: bytes) -> bytes:
    """Send bytes; return all that comes until the server closes the connection."""
    client = await http.connect()
    client.send(data)
    return await client.rest()


def statuses(answers: bytes) -> list[int]:
    return [int(line[9:12]) for line in answers.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


@pytest.mark.parametrize(
    "request_",
    [
        PUT + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        PUT + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        PUT + b"Content-Length: 3, 3\r\n\r\nabc",
        PUT + b"Content-Length: +3\r\n\r\nabc",
        PUT + b"Content-Length: -3\r\n\r\nabc",
        PUT + b"Content-Length: 0x3\r\n\r\nabc",
        PUT + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
        PUT + b"Transfer-Encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        PUT + b"Transfer-Encoding: chunked, identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        PUT + b"Transfer-Encoding : chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        PUT + b" Content-Length: 3\r\n\r\nabc",
        b"GET /cas/x HTTP/1.1\nHost: c\n\n",
        b"GET /cas/x HTTP/1.1\r\nHost: c\r\nA: b\x00c\r\n\r\n",
        b"GET /cas/x HTTP/1.1\r\nHost: c\r\nA\x00B: c\r\n\r\n",
        b"GET /cas/x HTTP/1.1\r\n\r\n",  # no Host
        b"GET /cas/x HTTP/9.9\r\nHost: c\r\n\r\n",
        b"GET /cas/x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500,  # the hello of TLS
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: c\r\nA: " + b"b" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: c\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET /" + b"a" * 100_000,  # and no end of the line
        b"GET / HTTP/1.1\r\n" + b"a" * 100_000,
    ],
)
async def test_what_is_no_request_is_400_and_the_end_of_the_connection(
    http: HttpNode, request_: bytes
) -> None:
    found = await last_words(http, request_ + GET)
    assert statuses(found) == [400]
    assert b"Connection: close" in found
    assert not http.store.blobs


@pytest.mark.parametrize(
    "body",
    [
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"fffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"g\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\n" + b"T: v\r\n" * 500 + b"\r\n",
    ],
)
async def test_odd_chunks_store_nothing_and_end_the_connection(http: HttpNode, body: bytes) -> None:
    found = await last_words(http, CHUNKED + body + GET)
    assert set(statuses(found)) == {400}
    assert not http.store.blobs


async def test_what_chunks_say_beside_their_size_does_not_matter(http: HttpNode) -> None:
    client = await http.connect()
    client.send(CHUNKED + b"3;" + b"e" * 100_000 + b"\r\nabc\r\n0\r\nTrailer: v\r\n\r\n")
    assert (await client.answer()).status == 200
    assert list(http.store.blobs.values()) == [b"abc"]


async def test_chunks_that_go_wrong_in_the_middle_end_the_upload(http: HttpNode) -> None:
    client = await http.connect()
    client.send(CHUNKED + b"1\r\na\r\n")
    await until(lambda: http.running)
    client.send(b"zz\r\n")
    assert 400 in statuses(await client.rest())
    await until(lambda: not http.stream.uploads.count)
    assert not http.store.blobs


async def test_a_body_longer_than_said_is_not_taken_for_part_of_it(http: HttpNode) -> None:
    client = await http.connect()
    client.send(PUT + b"Content-Length: 3\r\n\r\nabc")
    assert (await client.answer()).status == 200
    client.send(b"def\r\n\r\n")
    assert statuses(await client.rest()) == [400]
    assert list(http.store.blobs.values()) == [b"abc"]


async def test_a_body_shorter_than_said_stores_nothing(http: HttpNode) -> None:
    client = await http.connect()
    client.send(PUT + b"Content-Length: 4\r\n\r\nabc")
    await until(lambda: http.running)
    client.close()
    await until(lambda: not http.running)
    assert not http.store.blobs


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "deflate", "br", "zstd, zstd"])
async def test_w21_a_packed_body_is_not_unpacked(http: HttpNode, encoding: str) -> None:
    answer = await http.ask("PUT", f"/cas/{HASH}", b"abc", {"Content-Encoding": encoding})
    assert answer.status == 415
    assert not http.store.blobs


async def test_a_part_of_a_value_is_not_taken(http: HttpNode) -> None:
    field = {"Content-Range": "bytes 0-2/10"}
    assert (await http.ask("PUT", "/kv/main/k", b"abc", field)).status == 400
    assert (await http.ask("PUT", "/kv/main/k", b"abc", {"Expect": "magic"})).status == 417
    assert not http.index.entries


@pytest.mark.parametrize(
    "path",
    [
        "/cas/../../etc/passwd",
        "/cas/%2e%2e/x",
        "/kv/main/a%2fb",
        "/kv/main/a%00b",
        "/kv/main/%0d%0aSet-Cookie:x",
        "/kv/../main/k",
        "/kv/main/" + "k" * 2000,
        "/kv/" + "n" * 300 + "/k",
        f"/cas/{HASH.upper()}",
        f"/cas/{HASH}00",
        f"/{'i' * 300}/ac/{HASH}",
    ],
)
async def test_w16_w17_paths_that_name_nothing_are_400(http: HttpNode, path: str) -> None:
    for method in ("GET", "HEAD", "PUT"):
        body = b"abc" if method == "PUT" else None
        answer = await http.ask(method, path, body)
        assert answer.status in {400, 413}, path
        assert "set-cookie" not in answer.headers
    assert not http.store.blobs
    assert not http.index.entries


async def test_many_requests_sent_at_once_wait_outside(http: HttpNode) -> None:
    """They are answered one by one, and what the client does not read, it does not get."""
    client = await http.connect()
    count = 3000
    client.send(b"GET /status HTTP/1.1\r\nHost: c\r\n\r\n" * count)
    for _ in range(count):
        assert (await client.answer()).status == 200


class _Watched:
    """A server of which the test moves the time."""

    def __init__(self, http: HttpNode, clock: ManualClock) -> None:
        self.http = http
        self.clock = clock


@pytest.fixture
async def watched(make_node: MakeHttpNode) -> _Watched:
    clock = ManualClock()
    return _Watched(await make_node(clock=clock), clock)


@pytest.mark.parametrize("begun", [b"", b"GET /cas", b"GET / HTTP/1.1\r\nHost: c\r\nA: "])
async def test_w43_a_head_that_does_not_come_whole_ends_the_connection(
    watched: _Watched, begun: bytes
) -> None:
    client = await watched.http.connect()
    client.send(begun)
    await until(lambda: connections(watched.http.server) == 1)
    watched.clock.advance(HEAD_S + 1)
    assert await client.rest() == b""


async def test_a_head_that_comes_slowly_after_another_request_ends_the_connection(
    watched: _Watched,
) -> None:
    client = await watched.http.connect()
    assert (await client.ask("GET", "/status")).status == 200
    watched.clock.advance(HEAD_S + 1)
    assert (await client.ask("GET", "/status")).status == 200  # it may be idle for longer
    client.send(b"GET /status HTTP/1.1\r\n")
    received = client.sent_bytes
    await until(lambda: received_bytes(watched.http.server) == received)
    watched.clock.advance(HEAD_S + 1)
    assert await client.rest() == b""


async def test_a_body_that_does_not_begin_is_ended(make_node: MakeHttpNode) -> None:
    http = await make_node(limits=LimitsConfig(first_message=0.1))
    client = await http.connect()
    client.send(PUT + b"Content-Length: 100000\r\n\r\n")
    assert statuses(await client.rest()) == [503]
    await until(lambda: not http.stream.uploads.count)


async def test_a_body_that_stalls_is_ended(make_node: MakeHttpNode) -> None:
    http = await make_node(limits=LimitsConfig(stall=0.2))
    client = await http.connect()
    client.send(PUT + b"Content-Length: 100000\r\n\r\n" + b"x" * 50_000)
    assert (await client.answer()).status == 503
    await until(lambda: not http.stream.uploads.count and not http.budget.used_bytes)


async def test_a_reader_that_takes_nothing_is_broken_off(make_node: MakeHttpNode) -> None:
    http = await make_node(limits=LimitsConfig(stall=0.2))
    data = bytes(30_000_000)
    http.store.add(digest_of(data), data)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", http.port))
    path = f"/cas/{digest_of(data).hash_hex}"
    await asyncio.get_running_loop().sock_sendall(
        sock, f"GET {path} HTTP/1.1\r\nHost: c\r\n\r\n".encode()
    )
    await until(lambda: http.running)
    await until(lambda: not http.running)
    assert not http.budget.used_bytes
    sock.close()


async def test_connections_are_bounded_and_one_address_leaves_room_for_others(
    make_node: MakeHttpNode,
) -> None:
    http = await make_node(limits=LimitsConfig(connections=20))
    clients = [await http.connect() for _ in range(30)]
    await until(lambda: connections(http.server) == 10)  # half of them is one address's share
    assert (await clients[0].ask("GET", "/status")).status == 200
    assert await clients[-1].rest() == b""
    clients[0].close()
    await until(lambda: connections(http.server) == 9)
    assert (await http.ask("GET", "/status")).status == 200


async def test_calls_are_bounded_and_the_rest_are_misses(make_node: MakeHttpNode) -> None:
    http = await make_node(limits=LimitsConfig(streams=4))
    waiting = [await http.connect() for _ in range(2)]
    for client in waiting:
        client.send(PUT + b"Content-Length: 3\r\n\r\na")
    await until(lambda: http.running == 2)
    assert (await http.ask("GET", f"/cas/{HASH}")).status == 404
    assert (await http.ask("PUT", f"/cas/{HASH}", b"abc")).status == 503
    assert (await http.ask("PUT", "/v1/cache/1", b"abc")).status == 403
    for client in waiting:
        client.send(b"bc")
        assert (await client.answer()).status == 200


def connections(server: HttpCacheServer) -> int:
    return len(server.registry)


def received_bytes(server: HttpCacheServer) -> int:
    return sum(each.received_bytes for each in server.registry)
