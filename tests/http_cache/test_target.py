"""What paths name, and which are refused."""

from __future__ import annotations

import pytest

from federation.core.digest import DigestFunction
from federation.core.errors import InvalidRequest
from federation.http_cache.target import ClientKind, Kind, parse_target

HASH = "ab" * 32


@pytest.mark.parametrize(
    ("path", "kind", "instance"),
    [
        (f"/cas/{HASH}", Kind.BLOB, ""),
        (f"//cas/{HASH}", Kind.BLOB, ""),
        (f"/main/a/cas/{HASH}", Kind.BLOB, "main/a"),
        (f"/ac/{HASH}", Kind.RESULT, ""),
        (f"http://cache:80/main/ac/{HASH}", Kind.RESULT, "main"),
        ("/kv/main/ab/cdef", Kind.ENTRY, "kv/main"),
        ("/x/kv/main/k", Kind.ENTRY, "x/kv/main"),
        ("/gradle/0123", Kind.ENTRY, "gradle"),
        ("/v1/cache/3958646282517392505", Kind.ENTRY, "nx"),
        ("/v8/artifacts/0123456789abcdef", Kind.ENTRY, "turborepo"),
        ("/v8/artifacts/0123?slug=acme", Kind.ENTRY, "turborepo/acme"),
        ("/p/v8/artifacts/0123?teamId=t1&slug=acme", Kind.ENTRY, "p/turborepo/t1"),
        ("/v8/artifacts/status", Kind.TURBOREPO_STATUS, "turborepo"),
        ("/v8/artifacts/events", Kind.TURBOREPO_EVENTS, "turborepo"),
        ("/v8/artifacts?slug=a", Kind.TURBOREPO_QUERY, "turborepo/a"),
        ("/kv/main/a/", Kind.FOLDER, "kv/main"),
        ("/status", Kind.STATUS, ""),
    ],
)
def test_each_path_names_its_kind_and_instance(path: str, kind: Kind, instance: str) -> None:
    target = parse_target(path)
    assert (target.kind, target.instance) == (kind, instance)


def test_a_key_may_look_like_the_path_of_a_blob() -> None:
    target = parse_target(f"/kv/main/ac/{HASH}")
    assert (target.namespace, target.key) == ("kv/main", f"ac/{HASH}")
    assert target.client is ClientKind.KEY_VALUE


def test_blake3_is_a_part_of_the_path() -> None:
    named = parse_target(f"/i/cas/blake3/{HASH}").named
    assert named is not None
    assert (named.function, named.hash_hex) == (DigestFunction.BLAKE3, HASH)
    assert parse_target(f"/ac/blake3/{HASH}").key == f"blake3/{HASH}"


def test_an_encoded_key_is_the_plain_one() -> None:
    assert parse_target("/kv/main/%61%20b").key == "a b"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing/here",
        "/cas",
        "/cas/",
        "/cas/abc",
        f"/cas/{HASH.upper()}",
        f"/cas/{HASH}/4",
        f"/cas/sha1/{HASH}",
        f"/blobs/cas/{HASH}",
        "/kv",
        "/kv/main/../other/k",
        "/kv/main/%2e%2e/k",
        "/kv/main/a%2fb",
        "/kv/main/a%5cb",
        "/kv/main/a%00b",
        "/kv/main/a%0ab",
        "/kv/main/%ff",
        "/kv/main/" + "k" * 1025,
        "/kv/" + "n" * 5000,
        "/gradle/a/b",
        "/gradle/",
        "/gradle/a%20b",
        "/v1/cache/" + "1" * 129,
        "/v8/artifacts/0123?slug=a%2fb",
        "/v8/artifacts/0123?slug=..",
        "/v8/artifacts/0123?" + "&".join(f"q{n}=1" for n in range(30)),
        "*",
        "cas/" + HASH,
    ],
)
def test_w16_a_path_that_names_nothing_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_target(path)
