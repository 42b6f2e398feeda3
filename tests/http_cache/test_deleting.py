"""DELETE: a purge for admins, and for others an answer that changes nothing."""

from __future__ import annotations

import pytest

from federation.access.rights import Instances, Rights, Role
from federation.core.digest import digest_of
from federation.core.purges import Purge
from tests.http_cache.conftest import MakeHttpNode
from tests.http_cache.server import HttpNode

ADMIN = Rights("root", Role.ADMIN)
BLOB = digest_of(b"blob")
CAS = f"/cas/{BLOB.hash_hex}"


async def status_of(http: HttpNode, method: str, path: str, body: bytes | None = None) -> int:
    return (await http.ask(method, path, body)).status


def records(http: HttpNode) -> list[Purge]:
    return [purge for _, purge in http.purges.records.values()]


async def test_an_admins_delete_purges_a_blob(make_node: MakeHttpNode) -> None:
    http = await make_node(rights=ADMIN)
    await http.ask("PUT", CAS, b"blob")
    assert await status_of(http, "DELETE", CAS) == 204
    assert await status_of(http, "GET", CAS) == 404
    (record,) = records(http)
    assert record.thing == BLOB
    assert record.by.startswith("root at ")
    assert await status_of(http, "DELETE", CAS) == 404  # its size is not known


async def test_an_admins_delete_purges_an_entry_held_or_not(make_node: MakeHttpNode) -> None:
    http = await make_node(rights=ADMIN)
    for path in ("/kv/main/key", "/gradle/abc", "/v8/artifacts/abc", "/v1/cache/abc"):
        await http.ask("PUT", path, b"value")
        assert await status_of(http, "DELETE", path) == 204
        assert await status_of(http, "GET", path) == 404
    assert await status_of(http, "DELETE", "/kv/main/never") == 204
    assert len(records(http)) == 5


async def test_an_admins_delete_purges_a_result_of_either_kind(make_node: MakeHttpNode) -> None:
    http = await make_node(rights=ADMIN)
    path = f"/ac/{digest_of(b'action').hash_hex}"
    for value in (b"", b"no action result"):
        assert await status_of(http, "PUT", path, value) == 200
        assert await status_of(http, "GET", path) == 200
        assert await status_of(http, "DELETE", path) == 204
        assert await status_of(http, "GET", path) == 404


@pytest.mark.parametrize(
    ("rights", "path"),
    [
        (Rights("ci", Role.PUSH), "/kv/main/key"),
        (Rights("tokyo", Role.PEER), CAS),
        (Rights("root", Role.ADMIN, Instances(["", "kv/main"])), CAS),  # not everywhere
        (ADMIN, "/kv/main/.sccache_check"),
    ],
)
async def test_others_are_answered_and_nothing_is_deleted(
    make_node: MakeHttpNode, rights: Rights, path: str
) -> None:
    http = await make_node(rights=rights)
    await http.ask("PUT", path, b"blob")
    assert await status_of(http, "DELETE", path) == 204
    assert await status_of(http, "GET", path) == 200
    assert records(http) == []


async def test_who_may_not_push_may_not_delete(make_node: MakeHttpNode) -> None:
    for rights in (Rights("ci", Role.PULL), Rights("root", Role.ADMIN, Instances(["kv/other"]))):
        http = await make_node(rights=rights)
        assert await status_of(http, "DELETE", "/kv/main/key") == 403
        assert records(http) == []
