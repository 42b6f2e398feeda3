"""Blobs by hash: /cas."""

from __future__ import annotations

import pytest

from federation.access.rights import Rights, Role, everybody
from federation.config.model import LimitsConfig
from federation.core.digest import DigestFunction, digest_of
from tests.http_cache.conftest import MakeHttpNode
from tests.http_cache.server import HttpNode, until

DATA = b"some bytes"
PATH = f"/cas/{digest_of(DATA).hash_hex}"
LARGE = bytes(range(256)) * 20_000  # 5 MB


async def test_what_was_put_is_got_with_its_hash_as_the_tag(http: HttpNode) -> None:
    assert (await http.ask("PUT", PATH, DATA)).status == 200
    answer = await http.ask("GET", PATH)
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["etag"] == f'"{digest_of(DATA).hash_hex}"'
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert http.store.blobs == {digest_of(DATA): DATA}


async def test_what_only_some_may_read_is_kept_by_no_shared_cache(make_node: MakeHttpNode) -> None:
    http = await make_node(rights=Rights("ci", Role.PUSH))
    assert (await http.ask("PUT", PATH, DATA)).status == 200
    answer = await http.ask("GET", PATH)
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"


async def test_a_connection_serves_one_request_after_the_other(http: HttpNode) -> None:
    client = await http.connect()
    assert (await client.ask("GET", PATH)).status == 404
    assert (await client.ask("PUT", PATH, DATA)).status == 200
    assert (await client.ask("HEAD", PATH)).headers["content-length"] == str(len(DATA))
    assert (await client.ask("GET", PATH)).body == DATA


async def test_requests_sent_at_once_are_answered_in_order(http: HttpNode) -> None:
    client = await http.connect()
    line = f"GET {PATH} HTTP/1.1\r\nHost: c\r\n\r\n".encode()
    put = f"PUT {PATH} HTTP/1.1\r\nHost: c\r\nContent-Length: {len(DATA)}\r\n\r\n".encode()
    client.send(line + put + DATA + line)
    assert [(await client.answer()).status for _ in range(3)] == [404, 200, 200]


@pytest.mark.parametrize("size", [0, 1, 40_000, len(LARGE)])
async def test_a_body_in_chunks_has_no_size_and_is_verified(http: HttpNode, size: int) -> None:
    data = LARGE[:size]
    client = await http.connect()
    path = f"/cas/{digest_of(data).hash_hex}"
    client.send(f"PUT {path} HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for at in range(0, size, 100_000):
        piece = data[at : at + 100_000]
        client.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    client.send(b"0\r\n\r\n")
    assert (await client.answer()).status == 200
    answer = await client.ask("GET", path)
    assert (answer.status, answer.body == data) == (200, True)


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_w05_wrong_bytes_are_refused_and_nothing_is_kept(
    http: HttpNode, size: int, chunked: bool
) -> None:
    wrong = b"x" * size
    client = await http.connect()
    if chunked:
        client.send(
            f"PUT {PATH} HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        client.send(f"{size:x}\r\n".encode() + wrong + b"\r\n0\r\n\r\n")
        answer = await client.answer()
    else:
        answer = await client.ask("PUT", PATH, wrong)
    assert (answer.status, answer.headers["content-type"]) == (400, "text/plain")
    assert not http.store.blobs
    assert (await client.ask("GET", PATH)).status == 404


async def test_w06_the_empty_blob_is_always_here(http: HttpNode) -> None:
    for function in DigestFunction:
        part = "" if function is DigestFunction.SHA256 else "blake3/"
        path = f"/cas/{part}{digest_of(b'', function).hash_hex}"
        answer = await http.ask("GET", path)
        assert (answer.status, answer.body) == (200, b"")
        assert (await http.ask("HEAD", path)).status == 200
        assert (await http.ask("PUT", path, b"")).status == 200


async def test_blake3_blobs_are_others_than_those_of_sha256(http: HttpNode) -> None:
    named = digest_of(DATA, DigestFunction.BLAKE3)
    path = f"/cas/blake3/{named.hash_hex}"
    assert (await http.ask("PUT", path, DATA)).status == 200
    assert (await http.ask("GET", path)).body == DATA
    assert (await http.ask("GET", f"/cas/{named.hash_hex}")).status == 404
    assert (await http.ask("PUT", f"/cas/{named.hash_hex}", DATA)).status == 400


async def test_a_large_body_is_streamed_both_ways(http: HttpNode) -> None:
    path = f"/cas/{digest_of(LARGE).hash_hex}"
    assert (await http.ask("PUT", path, LARGE)).status == 200
    answer = await http.ask("GET", path)
    assert answer.body == LARGE
    assert http.budget.used_bytes == 0


async def test_expect_100_continue_is_answered_before_the_body(http: HttpNode) -> None:
    client = await http.connect()
    head = f"PUT {PATH} HTTP/1.1\r\nHost: c\r\nContent-Length: {len(DATA)}\r\n"
    client.send(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert (await client.answer()).status == 100
    client.send(DATA)
    assert (await client.answer()).status == 200


async def test_a_body_that_is_not_wanted_is_not_asked_for(make_node: MakeHttpNode) -> None:
    http = await make_node(rights=everybody(push=False))
    client = await http.connect()
    head = f"PUT {PATH} HTTP/1.1\r\nHost: c\r\nContent-Length: {len(DATA)}\r\n"
    client.send(f"{head}Expect: 100-continue\r\n\r\n".encode())
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (403, "close")
    assert await client.rest() == b""


async def test_w11_a_body_that_is_held_already_need_not_come_whole_before_the_answer(
    http: HttpNode,
) -> None:
    http.store.add(digest_of(LARGE), LARGE)
    client = await http.connect()
    path = f"/cas/{digest_of(LARGE).hash_hex}"
    client.send(f"PUT {path} HTTP/1.1\r\nHost: c\r\nContent-Length: {len(LARGE)}\r\n\r\n".encode())
    client.send(LARGE[:1000])
    assert (await client.answer()).status == 200
    client.send(LARGE[1000:])
    assert (await client.ask("GET", PATH)).status == 404  # on the same connection


async def test_a_refused_client_that_sends_all_before_it_reads_gets_the_answer(
    make_node: MakeHttpNode,
) -> None:
    http = await make_node(rights=everybody(push=False))
    client = await http.connect()
    client.send(f"PUT {PATH} HTTP/1.1\r\nHost: c\r\nContent-Length: {len(LARGE)}\r\n\r\n".encode())
    client.send(LARGE)
    await client.drained()
    assert (await client.answer()).status == 403
    assert (await client.ask("GET", PATH)).status == 404


async def test_ranges(http: HttpNode) -> None:
    http.store.add(digest_of(DATA), DATA)
    for asked, status, body in [
        ("bytes=0-3", 206, DATA[:4]),
        ("bytes=4-", 206, DATA[4:]),
        ("bytes=-3", 206, DATA[-3:]),
        ("bytes=2-1000", 206, DATA[2:]),
        ("bytes=0-0,2-3", 200, DATA),
        ("lines=1-2", 200, DATA),
    ]:
        answer = await http.ask("GET", PATH, headers={"Range": asked})
        assert (answer.status, answer.body) == (status, body), asked
    answer = await http.ask("GET", PATH, headers={"Range": "bytes=4-5"})
    assert answer.headers["content-range"] == f"bytes 4-5/{len(DATA)}"
    answer = await http.ask("GET", PATH, headers={"Range": "bytes=10-"})
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{len(DATA)}")
    other = {"Range": "bytes=0-3", "If-Range": '"other"'}
    assert (await http.ask("GET", PATH, headers=other)).status == 200


async def test_if_none_match_saves_the_body(http: HttpNode) -> None:
    tag = f'"{digest_of(DATA).hash_hex}"'
    client = await http.connect()
    assert (await client.ask("GET", PATH, headers={"If-None-Match": tag})).status == 404
    http.store.add(digest_of(DATA), DATA)
    answer = await client.ask("GET", PATH, headers={"If-None-Match": f'"x", W/{tag}'})
    assert (answer.status, answer.headers["etag"]) == (304, tag)
    assert "content-length" not in answer.headers
    assert (await client.ask("GET", PATH, headers={"If-None-Match": '"x"'})).body == DATA


async def test_a_size_that_somebody_claimed_does_not_hide_the_blob(http: HttpNode) -> None:
    http.service.sizes.learn([digest_of(DATA)._replace(size_bytes=77)])
    http.store.add(digest_of(DATA), DATA)
    assert (await http.ask("GET", PATH)).body == DATA


async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(
    http: HttpNode,
) -> None:
    client = await http.connect()
    path = f"/cas/{digest_of(LARGE).hash_hex}"
    client.send(f"PUT {path} HTTP/1.1\r\nHost: c\r\nContent-Length: {len(LARGE)}\r\n\r\n".encode())
    client.send(LARGE[:-1])
    await client.drained()
    client.close()
    await until(lambda: not http.stream.uploads.count and not http.budget.used_bytes)
    await until(lambda: not http.running)
    assert not http.store.blobs


async def test_on_a_node_full_of_uploads_writes_are_too_many_and_reads_go_on(
    make_node: MakeHttpNode,
) -> None:
    http = await make_node(limits=LimitsConfig(uploads=1))
    http.store.add(digest_of(DATA), DATA)
    client = await http.connect()
    path = f"/cas/{digest_of(LARGE).hash_hex}"
    client.send(f"PUT {path} HTTP/1.1\r\nHost: c\r\nContent-Length: {len(LARGE)}\r\n\r\n".encode())
    client.send(LARGE[:100_000])
    await until(lambda: http.stream.uploads.count)
    other = b"y" * 100_000
    assert (await http.ask("PUT", f"/cas/{digest_of(other).hash_hex}", other)).status == 503
    assert (await http.ask("PUT", "/gradle/0123", other)).status == 413
    assert (await http.ask("PUT", "/v1/cache/0123", other)).status == 403
    assert (await http.ask("GET", PATH)).body == DATA
    client.send(LARGE[100_000:])
    assert (await client.answer()).status == 200
