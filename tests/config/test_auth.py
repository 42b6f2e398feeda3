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
