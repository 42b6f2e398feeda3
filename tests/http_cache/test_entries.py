"""Keyed entries: ccache, sccache, Gradle, Turborepo, Nx."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from federation.access.rights import Instances, Rights, Role
from federation.config.model import Config
from federation.core.digest import digest_of
from federation.wire.action_result import key_of
from federation.wire.keyed_entry import action_of, decode_entry, key_text
from tests.http_cache.conftest import MakeHttpNode
from tests.http_cache.server import HttpNode

PATHS = (
    "/kv/main/ab/cdef",
    "/gradle/0123456789abcdef0123456789abcdef",
    "/v8/artifacts/0123456789abcdef?slug=acme",
    "/v1/cache/3958646282517392505",
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [0, 1000, 100_000])
async def test_a_value_comes_back_under_its_key_alone(http: HttpNode, path: str, size: int) -> None:
    data = os.urandom(size)
    client = await http.connect()
    assert (await client.ask("GET", path)).status == 404
    assert (await client.ask("HEAD", path)).status == 404
    assert (await client.ask("PUT", path, data)).status == 200
    answer = await client.ask("GET", path)
    assert (answer.status, answer.body) == (200, data)
    assert "cache-control" not in answer.headers
    assert (await client.ask("HEAD", path)).headers["content-length"] == str(size)
    for other in PATHS:
        if other != path:
            assert (await client.ask("GET", other)).status == 404


async def test_an_entry_is_an_action_result_that_names_its_value_and_its_text(
    http: HttpNode,
) -> None:
    await http.ask("PUT", "/kv/main/ab/cdef", b"value")
    action = action_of("kv/main", "ab/cdef")
    entry = http.index.entries[key_of("kv/main", action)]
    assert decode_entry(entry.value).value == digest_of(b"value")
    assert http.store.blobs[action] == key_text("kv/main", "ab/cdef")
    assert key_text("kv/main", "ab/cdef") == b"federation-http/kv/main\nab/cdef"


async def test_an_entry_without_its_value_is_a_miss(http: HttpNode) -> None:
    await http.ask("PUT", PATHS[0], b"value")
    http.store.remove(digest_of(b"value"))
    assert (await http.ask("GET", PATHS[0])).status == 404
    await http.ask("PUT", f"/cas/{digest_of(b'value').hash_hex}", b"value")
    assert (await http.ask("GET", PATHS[0])).body == b"value"


async def test_the_last_value_stays(http: HttpNode) -> None:
    for value in (b"first", b"second"):
        await http.ask("PUT", PATHS[0], value)
        assert (await http.ask("GET", PATHS[0])).body == value


@pytest.mark.parametrize("path", PATHS)
async def test_in_a_write_once_namespace_the_first_value_stays(
    make_node: MakeHttpNode, path: str
) -> None:
    http = await make_node(namespaces=[{"match": "*", "write-once": True}])
    assert (await http.ask("PUT", path, b"first")).status == 200
    again = await http.ask("PUT", path, b"second")
    assert again.status == (409 if path.startswith("/v1/") else 200)
    assert (await http.ask("GET", path)).body == b"first"


async def test_of_many_first_writers_at_once_one_stays(make_node: MakeHttpNode) -> None:
    http = await make_node(namespaces=[{"match": "nx", "write-once": True}])
    values = [os.urandom(50_000) for _ in range(8)]
    answers = await asyncio.gather(*(http.ask("PUT", PATHS[3], each) for each in values))
    assert sorted(each.status for each in answers) == [200, *[409] * 7]
    (winner,) = (v for v, a in zip(values, answers, strict=True) if a.status == 200)
    assert (await http.ask("GET", PATHS[3])).body == winner


async def test_the_first_rule_that_matches_decides_and_a_reload_takes_others(
    make_node: MakeHttpNode,
) -> None:
    rules = [{"match": "kv/main", "write-once": False}, {"match": "kv/*", "write-once": True}]
    http = await make_node(namespaces=rules)
    for path, stays in (("/kv/main/k", b"2"), ("/kv/other/k", b"1")):
        for value in (b"1", b"2"):
            await http.ask("PUT", path, value)
        assert (await http.ask("GET", path)).body == stays
    http.service.apply_config(Config.model_validate({"namespaces": []}))
    await http.ask("PUT", "/kv/other/k", b"3")
    assert (await http.ask("GET", "/kv/other/k")).body == b"3"


async def test_a_write_once_key_whose_value_is_gone_takes_another(make_node: MakeHttpNode) -> None:
    http = await make_node(namespaces=[{"match": "nx", "write-once": True}])
    await http.ask("PUT", PATHS[3], b"first")
    http.store.remove(digest_of(b"first"))
    assert (await http.ask("PUT", PATHS[3], b"second")).status == 200
    assert (await http.ask("GET", PATHS[3])).body == b"second"


async def test_turborepo_gets_back_the_headers_that_it_sent(http: HttpNode) -> None:
    sent = {"x-artifact-duration": "12", "x-artifact-tag": "sig=/", "x-artifact-client-ci": "X"}
    await http.ask("PUT", PATHS[2], b"tar", headers=sent)
    for method in ("GET", "HEAD"):
        answer = await http.ask(method, PATHS[2])
        assert answer.headers["x-artifact-duration"] == "12"
        assert answer.headers["x-artifact-tag"] == "sig=/"
        assert "x-artifact-client-ci" not in answer.headers
    await http.ask("PUT", PATHS[2], b"tar")
    assert "x-artifact-tag" not in (await http.ask("GET", PATHS[2])).headers


async def test_kept_headers_that_somebody_forged_are_not_sent(http: HttpNode) -> None:
    await http.ask("PUT", PATHS[2], b"tar", headers={"x-artifact-tag": "good"})
    ((digest, _),) = [(d, v) for d, v in http.store.blobs.items() if v.startswith(b"x-artifact")]
    http.store.blobs[digest] = b"x-artifact-tag: a\x07b\nset-cookie: c\nx-artifact-duration: 1\n"
    answer = await http.ask("GET", PATHS[2])
    assert answer.headers["x-artifact-duration"] == "1"
    assert not {"set-cookie", "x-artifact-tag"} & set(answer.headers)


async def test_turborepo_asks_for_status_sends_events_and_asks_about_many(http: HttpNode) -> None:
    client = await http.connect()
    status = await client.ask("GET", "/v8/artifacts/status")
    assert json.loads(status.body) == {"status": "enabled"}
    assert (await client.ask("POST", "/v8/artifacts/events", b"[{}]")).status == 200
    await client.ask("PUT", "/v8/artifacts/aa", b"123", {"x-artifact-duration": "7"})
    answer = await client.ask("POST", "/v8/artifacts", b'{"hashes": ["aa", "bb"]}')
    assert json.loads(answer.body) == {"aa": {"size": 3, "taskDurationMs": 7}, "bb": None}
    for body in (b"", b"[]", b'{"hashes": 1}', b'{"hashes": [1]}', b"[" * 100_000):
        assert (await client.ask("POST", "/v8/artifacts", body)).status == 400
    assert (await client.ask("OPTIONS", "/v8/artifacts/aa")).status == 204


async def test_webdav_clients_find_no_folder_and_may_make_any(http: HttpNode) -> None:
    client = await http.connect()
    body = b"<?xml version='1.0'?><propfind xmlns='DAV:'><allprop/></propfind>"
    assert (await client.ask("PROPFIND", "/kv/main/", body, {"Depth": "1"})).status == 404
    assert (await client.ask("MKCOL", "/kv/main/a/")).status == 201
    assert (await client.ask("GET", "/kv/main/a/")).status == 404
    assert (await client.ask("PUT", "/kv/main/a/.sccache_check", b"x")).status == 200
    assert (await client.ask("DELETE", "/kv/main/a/.sccache_check")).status == 204
    assert (await client.ask("GET", "/kv/main/a/.sccache_check")).body == b"x"


async def test_the_folder_above_all_namespaces_is_like_any_other(make_node: MakeHttpNode) -> None:
    http = await make_node(rights=Rights("ci", Role.PUSH, Instances(["kv/main"])))
    client = await http.connect()
    for folder in ("/kv/", "/kv/main/"):
        assert (await client.ask("PROPFIND", folder)).status == 404
        assert (await client.ask("MKCOL", folder)).status == 201
    assert (await client.ask("MKCOL", "/kv/other/")).status == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/kv/main/k"),
        ("PUT", "/status"),
        ("PATCH", "/gradle/aa"),
        ("POST", "/cas/" + "a" * 64),
    ],
)
async def test_other_methods_are_not_allowed(http: HttpNode, method: str, path: str) -> None:
    assert (await http.ask(method, path, b"")).status == 405


async def test_rights_hold_in_the_instance_of_the_namespace(make_node: MakeHttpNode) -> None:
    rights = Rights("ci", Role.PUSH, Instances(["kv/main", "turborepo/*"]))
    http = await make_node(rights=rights)
    for path, status in [
        ("/kv/main/k", 200),
        ("/kv/other/k", 403),
        ("/x/kv/main/k", 403),
        ("/v8/artifacts/aa?teamId=t", 200),
        ("/v8/artifacts/aa", 403),
        ("/gradle/aa", 403),
        ("/v1/cache/1", 403),
        (f"/cas/{digest_of(b'v').hash_hex}", 403),
        (f"/kv/main/cas/{digest_of(b'v').hash_hex}", 200),
    ]:
        assert (await http.ask("PUT", path, b"v")).status == status, path
        assert (await http.ask("GET", path)).status == status, path


async def test_sccache_finds_no_probe_where_it_may_not_read_and_so_starts(
    make_node: MakeHttpNode,
) -> None:
    http = await make_node(rights=Rights("ci", Role.PUSH, Instances(["other"])))
    client = await http.connect()
    assert (await client.ask("GET", "/kv/main/cc/.sccache_check")).status == 404
    assert (await client.ask("GET", "/kv/main/cc/0/1/2/0123")).status == 403
    assert (await client.ask("PUT", "/kv/main/cc/.sccache_check", b"Hello, World!")).status == 403
