"""Who calls is decided by what the call shows, and again whenever the files behind it change."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest

from federation.access import authenticator
from federation.access.authenticator import Authenticator
from federation.access.certificates import ClientRefused
from federation.access.incoming_call import ShownCertificate, parse_peer
from federation.access.jwt_keys import JwtKeys, parse_keys
from federation.access.live_tls import LiveTls
from federation.access.rights import Rights, Role
from federation.access.tls import load_pair
from federation.access.tokens import (
    RANDOM_BYTES,
    NewToken,
    TokenTable,
    make_token,
    parse_tokens,
)
from federation.access.watched_file import LiveFile
from federation.config.auth import ListenerAuthConfig
from federation.config.model import ListenerConfig, TlsConfig
from federation.core.clock import ManualClock, SystemClock
from federation.core.errors import NotAllowed, NotAuthenticated
from tests.support.certificates import Files, self_signed

NOW_S = SystemClock().wall_s()  # of the clock of tests whose tokens say when they expire
SECRET = b"k" * 40
M = "package.Service/Method"


class Shown:
    """A call as a transport shows it."""

    peer = parse_peer("ipv4:10.0.0.1:1")

    def __init__(
        self, *authorization: str | bytes, pem: bytes | None = None, chain: bytes | None = None
    ) -> None:
        self.headers = [("user-agent", "x"), *(("authorization", each) for each in authorization)]
        self._shown = ShownCertificate(pem or b"", chain or b"")
        self.asked = 0

    def certificate(self) -> ShownCertificate:
        self.asked += 1
        return self._shown


def token(seed: int = 1, role: Role = Role.PUSH, **kwargs: Any) -> NewToken:
    return make_token(role, bytes([seed]) * RANDOM_BYTES, NOW_S, **kwargs)


class Bench:
    def __init__(
        self,
        *tokens: NewToken,
        push: bool = True,
        anonymous: str = "none",
        jwt_rules: Sequence[object] | None = None,
    ) -> None:
        self.clock = ManualClock(wall_s=NOW_S)
        table = self.table(*tokens)
        self.file = LiveFile("tokens", "here", [], lambda: table, table)
        auth: dict[str, object] = {"anonymous": anonymous, "tokens": "/t"}
        keys: LiveFile[JwtKeys] | None = None
        if jwt_rules is not None:
            auth["jwt"] = {"keys": "/k", "algorithms": ["HS256"], "audience": "c"}
        made = ListenerAuthConfig.model_validate(auth)
        if made.jwt:
            parsed = parse_keys(SECRET, made.jwt, "x")
            keys = LiveFile("keys", "here", [], lambda: parsed, parsed)
        listener = ListenerConfig(address="127.0.0.1:0", push=push, auth=made)
        self.callers = Authenticator(listener, "here", self.clock, tokens=self.file, keys=keys)

    def table(self, *tokens: NewToken) -> TokenTable:
        return parse_tokens("\n".join(each.line for each in tokens).encode(), "here")

    def rights(self, *authorization: str | bytes) -> Rights:
        return self.callers.rights_of(Shown(*authorization))

    def refusal(self, *authorization: str | bytes) -> str:
        with pytest.raises(NotAuthenticated) as refused:
            self.rights(*authorization)
        return str(refused.value)


def test_a_token_gives_its_role_in_its_instances() -> None:
    bench = Bench(token(1, Role.PULL), token(2, Role.PUSH, instances=("ci",), name="ci"))
    pulls, pushes = (bench.rights(f"Bearer {token(seed).text}") for seed in (1, 2))
    assert (pulls.may_pull("x"), pulls.may_push("x")) == (True, False)
    assert (pushes.may_push("ci"), pushes.may_push("x"), pushes.may_pull("x")) == (True, 0, 0)
    assert pushes.identity == f"token ci ({token(2).id})"
    assert bench.rights(f"bearer  {token(1).text}") is pulls


def test_a15_what_is_no_good_is_refused_and_never_repeated() -> None:
    good = token().text
    bench = Bench(token(1))
    for headers, says in (
        ([good], "the authorization header has to be: Bearer, and a token"),
        ([f"Basic {good}"], "the authorization header has to be: Bearer, and a token"),
        (["Bearer"], "no token of a usable length"),
        (["Bearer "], "no token of a usable length"),
        ([f"Bearer {good[:-1]}"], "the token is unknown here"),
        ([f"Bearer {token(9).text}"], "the token is unknown here"),
        (["Bearer a.b.c"], "the token is unknown here"),
        (["Bearer " + "x" * 65536], "no token of a usable length"),
        ([f"Bearer {good}", f"Bearer {good}"], "more than one authorization header"),
        ([b"Bearer"], "the authorization header has to be: Bearer, and a token"),
    ):
        reason = bench.refusal(*headers)
        assert says in reason
        assert good[:-1] not in reason


def test_a15_an_expired_token_is_refused_also_when_it_was_known_a_moment_ago() -> None:
    bench = Bench(token(1, expires_after_s=100, name="ci"))
    header = f"Bearer {token(1).text}"
    assert bench.rights(header).may_push("")
    bench.clock.advance(101)
    assert f"token ci ({token(1).id}) expired on 20" in bench.refusal(header)


def test_whoever_shows_nothing_has_what_anonymous_says() -> None:
    assert not Bench().rights().may_pull("")
    with pytest.raises(NotAuthenticated):
        Bench(anonymous="pull").rights().check(Role.PUSH, M)
    bench = Bench(anonymous="push")
    assert (bench.rights().may_push("x"), bench.rights().is_peer) == (True, False)


def test_a01_no_token_writes_where_the_listener_does_not() -> None:
    bench = Bench(token(1, Role.ADMIN), push=False)
    with pytest.raises(NotAllowed, match="this listener does not take writes"):
        bench.rights(f"Bearer {token(1).text}").check(Role.PUSH, M)


def test_a_token_that_was_taken_out_of_the_file_is_refused_from_the_next_call_on() -> None:
    bench = Bench(token(1), token(2))
    header = f"Bearer {token(1).text}"
    assert bench.rights(header) is bench.rights(header)
    bench.file.value = bench.table(token(2))
    assert "the token is unknown here" in bench.refusal(header)


def test_a_jwt_is_verified_once_and_known_until_it_expires() -> None:
    bench = Bench(jwt_rules=[])
    facts = {"sub": "s", "aud": "c", "exp": int(SystemClock().wall_s()) + 1000, "role": "push"}
    header = f"Bearer {jwt.encode(facts, SECRET, 'HS256')}"
    rights = bench.rights(header)
    assert rights.may_push("")
    assert bench.rights(header) is rights
    bench.clock.step_wall(SystemClock().wall_s() + 1031 - NOW_S)
    # Verified again, by a library that looks at the machine's clock: good there, for a while yet.
    assert bench.rights(header) is not rights


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticator, "_KNOWN_MAX", 40)
    bench = Bench(jwt_rules=[])
    for turn in range(50):
        facts = {"sub": str(turn), "aud": "c", "exp": int(SystemClock().wall_s()) + 10_000}
        bench.rights(f"Bearer {jwt.encode(facts, SECRET, 'HS256')}")
    assert repr(bench.callers) == "<Authenticator of here, 40 known>"


class Certificates:
    def __init__(
        self,
        folder: Path,
        *,
        auth: ListenerAuthConfig | None = None,
        tokens: LiveFile[TokenTable] | None = None,
    ) -> None:
        self.folder = folder
        server = self_signed(folder)
        self.alice, self.bob = (self_signed(folder, name) for name in ("alice", "bob"))
        self.list = folder / "list"
        self.write(self.alice, self.bob)
        self.tls = TlsConfig(
            server_cert=server.certificate, server_key=server.key, client_certs=self.list
        )
        self.clock = ManualClock(wall_s=NOW_S)
        self.live = LiveTls(self.tls, "here", load_pair(self.tls, "here"), self.clock)
        listener = ListenerConfig(address="127.0.0.1:0", push=True, tls=self.tls, auth=auth)
        self.callers = Authenticator(listener, "here", self.clock, tls=self.live, tokens=tokens)

    def write(self, *files: Files) -> None:
        self.list.write_bytes(b"".join(each.certificate.read_bytes() for each in files))

    def rights(self, files: Files, *authorization: str | bytes) -> Rights:
        shown = Shown(*authorization, pem=files.certificate.read_bytes())
        return self.callers.rights_of(shown)


def test_a09_a_certificate_is_known_until_the_list_changes(tmp_path: Path) -> None:
    bench = Certificates(tmp_path)
    alice = bench.rights(bench.alice)
    assert alice.may_push("")
    assert not alice.is_peer
    assert bench.rights(bench.alice) is alice
    bench.write(bench.bob)
    for _ in range(2):
        bench.live.refresh(asked=True)
    with pytest.raises(ClientRefused, match="not in the list"):
        bench.rights(bench.alice)
    assert bench.rights(bench.bob).may_push("")


def test_a05_a_known_certificate_is_refused_once_it_has_expired(tmp_path: Path) -> None:
    bench = Certificates(tmp_path)
    bench.rights(bench.alice)
    bench.clock.advance(40 * 86400)
    with pytest.raises(ClientRefused, match="expired on"):
        bench.rights(bench.alice)


def test_with_both_the_certificate_lets_in_and_the_token_says_what_is_allowed(
    tmp_path: Path,
) -> None:
    table = parse_tokens(token(1, Role.PULL).line.encode(), "here")
    tokens = LiveFile("tokens", "here", [], lambda: table, table)
    auth = ListenerAuthConfig.model_validate({"tokens": "/t"})
    bench = Certificates(tmp_path, auth=auth, tokens=tokens)
    assert bench.rights(bench.alice).may_push("")
    assert not bench.rights(bench.alice, f"Bearer {token(1).text}").may_push("")
    with pytest.raises(NotAuthenticated):
        bench.rights(bench.alice, f"Bearer {token(2).text}")
    stranger = self_signed(tmp_path, "stranger")
    with pytest.raises(ClientRefused):
        bench.rights(stranger, f"Bearer {token(1).text}")
