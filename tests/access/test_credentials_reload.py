"""Tokens, keys and authorities are replaced under open connections, and take effect within 2 s."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest

from federation.access.rights import Role
from federation.access.tokens import RANDOM_BYTES, NewToken, make_token
from federation.core.clock import SystemClock
from tests.access.served import Site, refusal
from tests.support.certificates import self_signed
from tests.support.polling import wait_until
from tests.support.process import Node, federation
from tests.support.process_client import Client, outcome

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED

_clock = SystemClock()
TAKEN_S = 2.0
SLACK_S = 2.0  # for a busy machine


def made(seed: int, role: Role = Role.PUSH) -> NewToken:
    return make_token(role, bytes([seed]) * RANDOM_BYTES, _clock.wall_s())


def replace(path: Path, *lines: str) -> None:
    fresh = path.with_name("fresh")
    fresh.write_text("".join(f"{line}\n" for line in lines))
    fresh.replace(path)


def becomes(client: Client, code: grpc.StatusCode) -> None:
    """Wait, within the bound, for a call on this open connection to end so."""
    within_s = TAKEN_S + SLACK_S
    wait_until(lambda: outcome(client.capabilities) is code, str(code), timeout_s=within_s)


def events(node: Node, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in node.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    replace(tmp_path / "tokens", made(1).line, made(2).line)
    site.listen(auth={"tokens": str(tmp_path / "tokens")})
    return site


@pytest.mark.parametrize("hang_up", [False, True])
def test_a09_a_token_that_is_withdrawn_is_refused_on_the_open_connection(
    site: Site, hang_up: bool
) -> None:
    tokens = site.folder / "tokens"
    with (
        site.node().start() as node,
        site.connect(node, token=made(1).text) as first,
        site.connect(node, token=made(2).text) as second,
    ):
        for each in (first, second):
            each.write(b"while known")
        replace(tokens, made(2).line)
        if hang_up:
            node.signal(signal.SIGHUP)
        becomes(first, UNAUTHENTICATED)
        second.write(b"known all the time")
        wait_until(lambda: events(node, "tokens_taken"), "the new file")
        assert events(node, "tokens_taken")[-1]["count"] == 1
        done = federation("token", "new", "--role", "pull", "--file", str(tokens))
        with site.connect(node, token=done.stdout.strip()) as third:
            becomes(third, OK)
            assert refusal(lambda: third.write(b"no"))[0] is DENIED


def test_a07_a11_a_bad_file_of_tokens_changes_nothing_and_the_log_says_which_line(
    site: Site,
) -> None:
    tokens = site.folder / "tokens"
    with site.node().start() as node, site.connect(node, token=made(1).text) as client:
        client.capabilities()
        for number, bad in enumerate(("{", made(3).text, ""), 1):
            if bad:
                replace(tokens, made(2).line, bad)
            else:
                tokens.unlink()
            wait_until(
                lambda: len(events(node, "tokens_refused")) == number,  # noqa: B023
                "a complaint",
            )
            client.write(f"still known, {number}".encode())
        told = [line["text"] for line in events(node, "tokens_refused")]
        assert f"{tokens}:2: not one JSON object" in told[0]
        assert f"{tokens}:2: a token itself" in told[1]
        assert "No such file" in told[2]
        assert made(3).text.rpartition("_")[2] not in node.log
        assert events(node, "tokens_taken") == []


def test_a21_tokens_that_are_replaced_all_the_time_are_never_half_known(site: Site) -> None:
    tokens = site.folder / "tokens"
    with site.node().start() as node, site.connect(node, token=made(1).text) as client:
        for turn in range(200):
            lines = ([made(1).line], [made(2).line, made(1).line])[turn % 2]
            replace(tokens, *lines)
            node.signal(signal.SIGHUP)
            assert outcome(client.capabilities) is OK
    assert events(node, "tokens_refused") == events(node, "client_refused") == []


def test_a10_keys_rotate_without_a_failed_call(tmp_path: Path) -> None:
    site = Site(tmp_path)
    secrets = [bytes([65 + at]) * 40 for at in range(3)]

    def jwks(*which: int) -> str:
        keys = [
            {"kty": "oct", "kid": str(at), "k": jwt.utils.base64url_encode(secrets[at]).decode()}
            for at in which
        ]
        return json.dumps({"keys": keys})

    def token(at: int) -> str:
        facts = {"sub": "ci", "aud": "c", "exp": int(_clock.wall_s()) + 60, "role": "push"}
        return jwt.encode(facts, secrets[at], "HS256", {"kid": str(at)})

    keys = tmp_path / "keys"
    replace(keys, jwks(0))
    site.listen(auth={"jwt": {"keys": str(keys), "algorithms": ["HS256"], "audience": "c"}})
    with (
        site.node().start() as node,
        site.connect(node, token=token(0)) as old,
        site.connect(node, token=token(1)) as new,
    ):
        old.capabilities()
        assert refusal(new.capabilities)[0] is UNAUTHENTICATED
        ended, failed = threading.Event(), []

        def work() -> None:
            with site.connect(node, token=token(0)) as client:
                while not ended.is_set():
                    if (code := outcome(client.capabilities)) is not OK:
                        failed.append(code)

        traffic = threading.Thread(target=work)
        traffic.start()
        try:
            replace(keys, jwks(0, 1))
            becomes(new, OK)
        finally:
            ended.set()
            traffic.join(20)
        assert failed == []
        replace(keys, "{")
        wait_until(lambda: events(node, "jwt_keys_refused"), "a complaint")
        assert [outcome(each.capabilities) for each in (old, new)] == [OK, OK]
        replace(keys, jwks(1))
        becomes(old, UNAUTHENTICATED)
        assert outcome(new.capabilities) is OK


def test_a09_an_authority_that_is_taken_away_takes_its_clients_with_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    first, second = (self_signed(tmp_path, name, authority=True) for name in ("first", "second"))
    trusted = tmp_path / "ca"
    replace(trusted, first.certificate.read_text(), second.certificate.read_text())
    site.listen(client_ca=trusted)
    alice, bob = (
        self_signed(tmp_path, name, issuer=issuer)
        for name, issuer in (("alice", first), ("bob", second))
    )
    with (
        site.node().start() as node,
        site.connect(node, me=alice) as hers,
        site.connect(node, me=bob) as his,
    ):
        for each in (hers, his):
            each.write(b"vouched for")
        replace(trusted, "-----BEGIN CERTIFICATE-----")
        wait_until(lambda: events(node, "tls_files_refused"), "a complaint")
        hers.write(b"still vouched for")
        replace(trusted, second.certificate.read_text())
        becomes(hers, DENIED)
        assert "no authority in client-ca issued it" in refusal(hers.capabilities)[1]
        his.write(b"vouched for all the time")
        wait_until(lambda: events(node, "client_refused"), "a line about her")
        line = events(node, "client_refused")[0]
        assert line["subject"] == "CN=alice"
        assert len(line["fingerprint"].split(":")) == 32
