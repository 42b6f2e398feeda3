"""Basic credentials as the token that they carry."""

from __future__ import annotations

import base64

import pytest

from federation.http_cache.credentials import as_metadata, bearer_of


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (basic("anybody:secret"), "Bearer secret"),
        (basic("anybody:se:cret"), "Bearer se:cret"),
        (basic("secret:"), "Bearer secret"),
        (basic("secret"), "Bearer secret"),
        (basic("a:b").replace("Basic", "bAsIc"), "Bearer b"),
        ("Bearer secret", "Bearer secret"),
        ("Basic ???", "Basic ???"),
        ("Basic " + base64.b64encode(b"\xff:\xff").decode(), "Basic /zr/"),
        ("Digest x", "Digest x"),
        ("", ""),
    ],
)
def test_the_password_is_the_token(given: str, expected: str) -> None:
    assert bearer_of(given) == expected


def test_names_are_in_small_letters_and_values_as_they_came() -> None:
    raw = ((b"X-Proxy", b"a%20b"), (b"AUTHORIZATION", basic("u:t").encode()))
    assert as_metadata(raw) == [("x-proxy", "a%20b"), ("authorization", "Bearer t")]
