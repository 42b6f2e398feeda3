"""Whatever a listener's auth cannot mean is said with its line, and how to mend it."""

from pathlib import Path

import pytest

from federation.config.file import ConfigFileError, Problem, loads
from federation.config.model import ListenerConfig

TLS = "tls: {server-cert: c, server-key: k}"
MTLS = "tls: {server-cert: c, server-key: k, client-certs: l}"
JWT = "{keys: k, algorithms: [RS256], audience: a}"


def load(
    tmp_path: Path, *lines: str, address: str = "0.0.0.0:1", push: str = "true"
) -> ListenerConfig:
    text = [f"- address: {address}", f"  push: {push}", *(f"  {line}" for line in lines)]
    return loads("\n".join(["listeners:", *text]), tmp_path / "f.yaml", {}).listeners[0]


def refusal(tmp_path: Path, *lines: str, **kwargs: str) -> Problem:
    with pytest.raises(ConfigFileError) as refused:
        load(tmp_path, *lines, **kwargs)
    (problem,) = refused.value.problems
    return problem


@pytest.mark.parametrize(
    "lines",
    [
        [TLS, "auth: {tokens: t}"],
        [TLS, f"auth: {{jwt: {JWT}, anonymous: pull}}"],
        [TLS, "auth: {tokens: t, anonymous: push}"],
        [MTLS, "auth: {tokens: t}"],
        [MTLS, 'auth: {clients: [{subject: "*", role: pull}]}'],
        ["tls: {server-cert: c, server-key: k, client-ca: l}", "auth: {}"],
    ],
)
def test_what_makes_sense_is_taken(tmp_path: Path, lines: list[str]) -> None:
    assert load(tmp_path, *lines).auth is not None


def test_a15_tokens_over_plain_text_are_for_loopback_only(tmp_path: Path) -> None:
    for auth in ("auth: {tokens: t}", f"auth: {{jwt: {JWT}}}"):
        problem = refusal(tmp_path, auth)
        assert (problem.line, problem.path) == (4, "listeners[0].auth")
        assert "tokens would travel as plain text" in problem.message
        assert "add tls to this listener, or let it listen on 127.0.0.1" in problem.message
        for address in ("127.0.0.1:1", '"[::1]:1"', "localhost:1"):
            taken = load(tmp_path, auth, address=address).auth
            assert taken is not None
            assert taken.takes_tokens


@pytest.mark.parametrize(
    ("lines", "path", "says"),
    [
        ([TLS, "auth: {}"], "auth", "add tokens or jwt here, or client certificates in tls"),
        (["auth: {anonymous: pull}"], "auth", "nobody could show anything"),
        (
            [TLS, 'auth: {tokens: t, clients: [{subject: "*", role: pull}]}'],
            "auth",
            "set tls.client-ca or tls.client-certs, too",
        ),
        ([MTLS, "auth: {tokens: t, anonymous: pull}"], "auth", "every caller of this listener"),
        ([TLS, "auth: {tokens: t, anonymous: peer}"], "auth.anonymous", "must be none, pull or"),
        ([TLS, "auth: {jwt: {keys: k, algorithms: [none], audience: a}}"], None, "HS512"),
        ([TLS, "auth: {jwt: {keys: k, algorithms: [RS256]}}"], "auth.jwt.audience", "missing"),
        ([TLS, "auth: {jwt: {keys: k, algorithms: [], audience: a}}"], None, "not be empty"),
        (
            [TLS, "auth: {jwt: {keys: k, algorithms: [RS256, HS256], audience: a}}"],
            "auth.jwt",
            "exclude each other",
        ),
        (
            [MTLS, "auth: {clients: [{role: push}]}"],
            "auth.clients[0]",
            "give subject",
        ),
        ([MTLS, "auth: {clients: [{subject: CN=x, role: root}]}"], None, "peer or admin"),
        ([TLS, "auth: {token: t}"], "auth.token", "did you mean tokens?"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(
    tmp_path: Path, lines: list[str], path: str | None, says: str
) -> None:
    problem = refusal(tmp_path, *lines)
    assert problem.line == 3 + len(lines)
    assert path is None or problem.path == f"listeners[0].{path}"
    assert says in problem.message


def test_anonymous_callers_cannot_push_where_nobody_can(tmp_path: Path) -> None:
    problem = refusal(tmp_path, TLS, "auth: {tokens: t, anonymous: push}", push="false")
    assert "say `push: true`, too" in problem.message


def with_keys(keys: str, more: str = "") -> list[str]:
    return [TLS, f"auth: {{jwt: {{keys: {keys!r}, algorithms: [RS256], audience: a{more}}}}}"]


@pytest.mark.parametrize(
    ("keys", "more"),
    [
        ("https://id.example.com/jwks", ""),
        ("https://id.example.com:8443/jwks?of=me", ", keys-server-cert: ca.crt"),
        ("http://127.0.0.1:1/jwks", ", keys-refresh: 10s, keys-max-age: 10s"),
        ("http://[::1]:1/jwks", ""),
        ("http://localhost/jwks", ""),
    ],
)
def test_keys_may_be_at_a_url(tmp_path: Path, keys: str, more: str) -> None:
    auth = load(tmp_path, *with_keys(keys, more)).auth
    assert auth is not None
    assert auth.jwt is not None
    assert (auth.jwt.keys_url, auth.jwt.keys_file) == (keys, None)


def test_the_scheme_of_a_url_may_be_in_capitals(tmp_path: Path) -> None:
    lines = with_keys("HTTPS://id.example.com/jwks", ", keys-server-cert: ca.crt")
    auth = load(tmp_path, *lines).auth
    assert auth is not None
    assert auth.jwt is not None
    assert auth.jwt.keys_url == "https://id.example.com/jwks"  # else the authorities do not count


def test_keys_are_else_a_file_below_the_files_folder(tmp_path: Path) -> None:
    auth = load(tmp_path, *with_keys("jwks.json")).auth
    assert auth is not None
    assert auth.jwt is not None
    assert (auth.jwt.keys_url, auth.jwt.keys_file) == (None, tmp_path / "jwks.json")


@pytest.mark.parametrize(
    ("keys", "more", "says"),
    [
        ("http://id.example.com/jwks", "", "https, or http on this machine"),
        ("ftp://127.0.0.1/jwks", "", "https, or http on this machine"),
        ("https:///jwks", "", "https://HOST/PATH"),
        ("https://me:secret@id.example.com/", "", "without a password"),
        ("https://id.example.com:port/", "", "not a URL"),
        ("https://id.example.com/", ", keys-max-age: 1m", "keys would end in between"),
        ("http://127.0.0.1/", ", keys-server-cert: c", "is for an https URL"),
        ("HTTP://127.0.0.1/", ", keys-server-cert: c", "is for an https URL"),
        ("jwks.json", ", keys-server-cert: c", "is for an https URL"),
        ("https://id.example.com/", ", keys-refresh: 1s", "at least 10"),
    ],
)
def test_a_url_that_cannot_be_trusted_is_refused(
    tmp_path: Path, keys: str, more: str, says: str
) -> None:
    problem = refusal(tmp_path, *with_keys(keys, more))
    assert says in problem.message
    assert "secret" not in problem.message


def test_a_shared_secret_is_not_fetched(tmp_path: Path) -> None:
    lines = [TLS, "auth: {jwt: {keys: 'https://a.b/', algorithms: [HS256], audience: a}}"]
    assert "a URL gives public keys" in refusal(tmp_path, *lines).message
