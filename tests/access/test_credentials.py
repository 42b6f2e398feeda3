"""What callers show to real listeners, and what each of them may do then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.protobuf import descriptor_pool

from federation._proto.buildstream.v2.buildstream_pb2 import StatusRequest
from federation._proto.buildstream.v2.buildstream_pb2_grpc import ReferenceStorageStub
from federation.access.rights import Role
from federation.access.setup import load_access
from federation.access.tokens import RANDOM_BYTES, NewToken, make_token
from federation.config.model import Config
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from federation.core.errors import ConfigError
from tests.access.served import PEERS_ALONE, READS, WRITES, Site, refusal
from tests.support.certificates import Files, self_signed
from tests.support.polling import wait_until
from tests.support.process import Node
from tests.support.process_client import Client, outcome

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE
CLOSED, OPEN_TO_READ, PULL_ONLY, CERTIFICATES = range(4)  # the listeners
SERVICES = {name.partition("/")[0] for name in (*READS, *WRITES, *PEERS_ALONE)}

_clock = SystemClock()


def token(seed: int, role: Role = Role.PUSH, **kwargs: Any) -> str:
    return made(seed, role, **kwargs).text


def made(seed: int, role: Role, **kwargs: Any) -> NewToken:
    return make_token(role, bytes([seed]) * RANDOM_BYTES, _clock.wall_s(), **kwargs)


class Here(NamedTuple):
    """A node with a listener of each kind, and what is needed to call it."""

    site: Site
    node: Node
    issuer: rsa.RSAPrivateKey

    def jwt(self, **more: Any) -> str:
        facts = {"sub": "ci", "aud": "cache", "exp": int(_clock.wall_s()) + 600, "role": "push"}
        key = more.pop("key", self.issuer)
        return jwt.encode({**facts, **more}, key, more.pop("alg", "RS256"))

    def files(self, name: str) -> Files:
        return Files(self.site.folder / f"{name}.crt", self.site.folder / f"{name}.key")

    def connect(self, at: int = CLOSED, **kwargs: Any) -> AbstractContextManager[Client]:
        return self.site.connect(self.node, at, **kwargs)

    def stored(self, data: bytes) -> bool:
        with self.connect(OPEN_TO_READ) as client:
            return not client.find_missing([digest_of(data)])

    def refused(self, says: str) -> dict[str, Any]:
        """Wait for the last refusal in the log to say this, and return it."""
        wait_until(lambda: says in (self.refusals() or [{"reason": ""}])[-1]["reason"], says)
        return self.refusals()[-1]

    def refusals(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.node.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "client_refused"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    yield from _here(tmp_path_factory.mktemp("credentials"))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """The same with few refusals, so that its log has a line for each of them."""
    yield from _here(tmp_path_factory.mktemp("quiet"))


def _here(folder: Path) -> Iterator[Here]:
    site = Site(folder)
    lines = [
        made(1, Role.PUSH, name="ci"),
        made(2, Role.PULL),
        made(3, Role.PUSH, instances=("ours", "teams/*"), name="ours"),
        made(4, Role.PUSH, expires_after_s=-60, name="old"),
    ]
    (folder / "tokens").write_text("".join(f"{each.line}\n" for each in lines))
    issuer = rsa.generate_private_key(65537, 2048)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = issuer.public_key().public_bytes(serialization.Encoding.PEM, form)
    (folder / "issuer.pem").write_bytes(pem)
    settings = {
        "keys": str(folder / "issuer.pem"),
        "algorithms": ["RS256"],
        "audience": "cache",
        "leeway": "1s",
    }
    tokens = {"tokens": str(folder / "tokens")}
    site.listen(auth={**tokens, "jwt": settings})
    site.listen(auth={**tokens, "anonymous": "pull"})
    site.listen(auth={**tokens, "anonymous": "pull"}, push=False)
    authority = self_signed(folder, "authority", authority=True)
    rules = [
        {"subject": "CN=builder", "role": "push", "instances": ["ours"]},
        {"subject": "CN=reader*", "role": "pull"},
    ]
    site.listen(
        auth={"clients": rules},
        client_ca=authority.certificate,
        peer_certs=self_signed(folder, "tokyo").certificate,
    )
    for name in ("builder", "reader", "other"):
        self_signed(folder, name, issuer=authority)
    with site.node().start() as node:
        yield Here(site, node, issuer)


def test_the_methods_tried_here_are_all_that_there_are(here: Here) -> None:
    pool = descriptor_pool.Default()
    tried = {*READS, *WRITES, *PEERS_ALONE}
    with here.connect(CLOSED, token=token(1)) as client:
        for service in SERVICES:
            for method in pool.FindServiceByName(service).methods:
                name = f"{service}/{method.name}"
                if name not in tried:
                    call = client.channel.unary_unary(f"/{name}", None, None)
                    assert outcome(lambda: call(b"")) is grpc.StatusCode.UNIMPLEMENTED  # noqa: B023


@pytest.mark.parametrize("method", PEERS_ALONE)
def test_what_peers_ask_each_other_is_answered_to_peers_alone(here: Here, method: str) -> None:
    data = f"for peers, {method}".encode()
    for at, shown, wanted in (
        (CLOSED, {}, UNAUTHENTICATED),
        (CLOSED, {"token": token(2)}, DENIED),
        (CLOSED, {"token": token(1)}, DENIED),
        (PULL_ONLY, {"token": token(1)}, DENIED),
        (CERTIFICATES, {"me": here.files("builder"), "instance": "ours"}, DENIED),
    ):
        with here.connect(at, **shown) as client:
            code, says = refusal(lambda: PEERS_ALONE[method](client, data))
            assert (code, method in says) == (wanted, True), says
    with here.connect(CERTIFICATES, me=here.files("tokyo")) as client:
        assert outcome(lambda: PEERS_ALONE[method](client, data)) is OK


@pytest.mark.parametrize("method", [*READS, *WRITES])
def test_a15_nothing_is_answered_without_a_token_where_one_is_needed(
    here: Here, method: str
) -> None:
    data = f"no token, {method}".encode()
    with here.connect(CLOSED) as client:
        code, says = refusal(lambda: {**READS, **WRITES}[method](client, data))
    assert code is UNAUTHENTICATED
    assert "no credentials were shown" in says
    assert not here.stored(data)


@pytest.mark.parametrize("method", WRITES)
def test_a01_a15_who_may_only_read_writes_nothing_by_any_call(here: Here, method: str) -> None:
    data = f"read only, {method}".encode()
    for at, shown, wanted in (
        (OPEN_TO_READ, None, UNAUTHENTICATED),
        (OPEN_TO_READ, token(2), DENIED),
        (CLOSED, token(2), DENIED),
        (PULL_ONLY, token(1), DENIED),
        (PULL_ONLY, None, DENIED),
    ):
        with here.connect(at, token=shown) as client:
            code, says = refusal(lambda: WRITES[method](client, data))
            assert (code, method in says) == (wanted, True), says
            assert client.get_action_result(digest_of(data)) is None or at == CLOSED
    assert not here.stored(data)


def test_a_token_opens_what_its_line_says(here: Here) -> None:
    data = b"written with a token"
    with here.connect(CLOSED, token=token(1)) as writer:
        writer.write(data)
        writer.push_blob("urn:token", digest_of(data))
    with here.connect(CLOSED, token=token(2)) as reader:
        assert reader.fetch_blob("urn:token") == digest_of(data)
        assert reader.read(digest_of(data)) == data


@pytest.mark.parametrize("method", [*READS, *WRITES])
def test_a15_a_token_of_one_instance_does_nothing_in_another(here: Here, method: str) -> None:
    attempt = {**READS, **WRITES}[method]
    data = f"wrong instance, {method}".encode()
    for instance in ("theirs", "", "ours/below", "teams"):
        with here.connect(CLOSED, token=token(3), instance=instance) as client:
            code, says = refusal(lambda: attempt(client, data))
        assert code is DENIED
        assert f"in instance {instance!r}" in says
    assert not here.stored(data)
    for instance in ("ours", "teams/a"):
        with here.connect(CLOSED, token=token(3), instance=instance) as client:
            assert outcome(lambda: attempt(client, data)) in (OK, grpc.StatusCode.NOT_FOUND)


BAD_TOKENS = {
    "wrong": (token(9), "the token is unknown here"),
    "a prefix": (token(1)[:-1], "the token is unknown here"),
    "expired": (token(4), "token old"),
    "no JWT": ("a.b.c", "the token is no JSON Web Token"),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a15_a_bad_token_is_refused_in_words_to_both_sides_and_never_repeated(
    quiet: Here, name: str
) -> None:
    shown, says = BAD_TOKENS[name]
    with quiet.connect(OPEN_TO_READ, token=shown) as client:
        assert refusal(client.capabilities)[0] is UNAUTHENTICATED
    with quiet.connect(CLOSED, token=shown) as client:
        code, text = refusal(client.capabilities)
    assert (code, says in text) == (UNAUTHENTICATED, True), text
    last = quiet.refused(says)
    assert last["level"] == "warning"
    assert last["method"] == "build.bazel.remote.execution.v2.Capabilities/GetCapabilities"
    assert last["peer"].startswith("ipv")
    assert shown not in quiet.node.log


def test_a15_huge_double_and_foreign_headers_are_refused(here: Here) -> None:
    good = ("authorization", f"Bearer {token(1)}")
    for headers in (
        [good, good],
        [("authorization", f"Basic {token(1)}")],
        [("authorization", "Bearer " + "x" * 7000)],
        [("authorization", "Bearer " + "x" * 60_000)],  # no transport takes that much
    ):
        huge = len(headers[0][1]) > 16_000
        with here.connect(CLOSED, headers=headers) as client:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if huge else UNAUTHENTICATED
            assert refusal(client.capabilities)[0] is code
    with here.connect(CLOSED, headers=[good]) as client:
        client.capabilities()


def test_jwt_opens_what_its_claims_say(here: Here) -> None:
    data = b"written with a JSON Web Token"
    with here.connect(CLOSED, token=here.jwt()) as client:
        client.write(data)
    with here.connect(CLOSED, token=here.jwt(role="pull")) as client:
        assert client.read(digest_of(data)) == data
        assert outcome(lambda: client.write(b"more")) is DENIED
    with here.connect(CLOSED, token=here.jwt(instances=["ours"])) as client:
        assert outcome(lambda: client.write(b"more")) is DENIED
    with here.connect(CLOSED, token=here.jwt(role=["cook"])) as client:
        assert outcome(client.capabilities) is DENIED


def _bad_jwt(here: Here, name: str) -> str:
    now_s = int(_clock.wall_s())
    facts = {"sub": "ci", "aud": "cache", "exp": now_s + 600, "role": "push"}
    return {
        "alg none": lambda: jwt.encode(facts, "", "none"),
        "another alg": lambda: jwt.encode(facts, here.issuer, "RS512"),
        "expired": lambda: here.jwt(exp=now_s - 60),
        "not yet": lambda: here.jwt(nbf=now_s + 600),
        "signature": lambda: here.jwt(key=rsa.generate_private_key(65537, 2048)),
        "audience": lambda: here.jwt(aud="another"),
    }[name]()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("alg none", "signed with an algorithm other than RS256, or not at all"),
        ("another alg", "signed with an algorithm other than RS256, or not at all"),
        ("expired", "the token expired (exp 20"),
        ("not yet", "the token is not valid yet (nbf 20"),
        ("signature", "the token's signature is not from a key known here"),
        ("audience", "the token is not for the audience 'cache'"),
    ],
)
def test_a15_a_bad_jwt_is_refused_in_words_to_both_sides(quiet: Here, name: str, says: str) -> None:
    shown = _bad_jwt(quiet, name)
    data = f"bad jwt, {name}".encode()
    with quiet.connect(CLOSED, token=shown) as client:
        code, text = refusal(lambda: client.write(data))
    assert (code, says in text) == (UNAUTHENTICATED, True), text
    assert "Write" in quiet.refused(says)["method"]
    assert shown not in quiet.node.log
    assert not quiet.stored(data)


def test_a17_each_caller_is_told_its_own_rights(here: Here) -> None:
    for at, shown, instance, may in (
        (OPEN_TO_READ, None, "", False),
        (OPEN_TO_READ, token(2), "", False),
        (OPEN_TO_READ, token(1), "", True),
        (OPEN_TO_READ, token(3), "ours", True),
        (PULL_ONLY, token(1), "", False),
        (CLOSED, here.jwt(role="pull"), "", False),
        (CLOSED, here.jwt(role="admin"), "x", True),
    ):
        with here.connect(at, token=shown, instance=instance) as client:
            cache = client.capabilities().cache_capabilities
            assert cache.action_cache_update_capabilities.update_enabled is may
            references = ReferenceStorageStub(client.channel)
            status = references.Status(StatusRequest(instance_name=instance))
            assert status.allow_updates is may


def test_certificates_of_an_authority_do_what_the_rules_say(quiet: Here) -> None:
    here = quiet
    files = {name: here.files(name) for name in ("builder", "reader", "other", "tokyo")}
    data = b"written with an authority's certificate"
    with here.connect(CERTIFICATES, me=files["builder"], instance="ours") as client:
        client.write(data)
    with here.connect(CERTIFICATES, me=files["builder"]) as client:
        code, says = refusal(lambda: client.write(b"elsewhere"))
        assert (code, "in instance ''" in says) == (DENIED, True)
    with here.connect(CERTIFICATES, me=files["reader"]) as client:
        assert client.read(digest_of(data)) == data
        assert refusal(lambda: client.write(b"more"))[0] is DENIED
    with here.connect(CERTIFICATES, me=files["tokyo"]) as client:
        client.write(b"from a peer")
    with here.connect(CERTIFICATES, me=files["other"]) as client:
        code, says = refusal(client.capabilities)
        assert (code, "certificate CN=other" in says) == (DENIED, True)
    last = here.refused("certificate CN=other ")
    assert last["identity"].startswith("certificate CN=other ")


def test_a04_what_an_authoritys_leaf_or_a_peer_signed_gets_nowhere(here: Here) -> None:
    for name in ("builder", "tokyo"):
        signer = here.files(name)
        minted = self_signed(here.site.folder, f"minted-by-{name}", issuer=signer, cn="builder")
        with minted.certificate.open("ab") as file:
            file.write(signer.certificate.read_bytes())
        with here.connect(CERTIFICATES, me=minted, instance="ours") as client:
            for attempt in (*READS.values(), *WRITES.values()):
                assert outcome(lambda: attempt(client, b"minted")) in (DENIED, UNAVAILABLE)  # noqa: B023
    assert not here.stored(b"minted")


def test_a16_health_needs_no_token_and_on_a_port_for_certificates_http_says_it(here: Here) -> None:
    check = "/grpc.health.v1.Health/Check"
    for at in (CLOSED, OPEN_TO_READ, PULL_ONLY):
        with here.connect(at) as client:
            assert client.channel.unary_unary(check, None, None)(b"") == b"\x08\x01"
    with here.connect(CERTIFICATES) as client:
        assert refusal(lambda: client.channel.unary_unary(check, None, None)(b""))[0] is UNAVAILABLE
    with here.connect(CERTIFICATES, me=here.files("other")) as client:  # may do nothing else
        assert client.channel.unary_unary(check, None, None)(b"") == b"\x08\x01"
    assert here.node.http_get("/readyz")[0] == 200
    assert here.node.http.startswith("127.0.0.1:")


def test_a02_plain_text_to_a_port_with_tls_gets_nowhere(here: Here) -> None:
    port = here.node.addresses[CLOSED].rpartition(":")[2]
    with Client(f"localhost:{port}") as client:
        assert outcome(client.capabilities) is UNAVAILABLE


def test_the_status_page_says_what_each_listener_asks_for(here: Here) -> None:
    shown = json.loads(here.node.http_get("/")[1])
    assert [(x["client-certs"], x["tokens"]) for x in shown["listeners"]] == [
        (False, True),
        (False, True),
        (False, True),
        (True, False),
    ]


def test_a15_tokens_over_plain_text_refuse_the_start(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("")
    listener = {"address": "0.0.0.0:0", "push": True, "auth": {"tokens": str(tmp_path / "tokens")}}
    node = Node(tmp_path / "data", {"listeners": [listener]})
    with node.launch():
        assert node.wait_exit() == 2
    assert "listeners[0].auth: " in node.log
    assert "tokens would travel as plain text" in node.log
    assert not (tmp_path / "data").exists()
    listener["address"] = "127.0.0.1:0"
    with Node(tmp_path / "data", {"listeners": [listener]}, name="loopback").start() as running:
        wait_until(lambda: running.running, "the node")
        with Client(running.address) as client:
            assert outcome(client.capabilities) is UNAUTHENTICATED


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "`federation token new --role push --file"),
        ({"tokens": "{}"}, "tokens:1: id: missing"),
        ({"tokens": "", "keys": "short"}, "jwt.keys: "),
        ({"tokens": ""}, "keys: No such file"),
    ],
)
def test_a08_files_that_are_absent_or_broken_are_refused_with_their_place(
    tmp_path: Path, files: dict[str, str], says: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    keys = {"keys": str(tmp_path / "keys"), "algorithms": ["HS256"], "audience": "a"}
    auth = {"tokens": str(tmp_path / "tokens"), "jwt": keys}
    config = Config.model_validate({"listeners": [{"address": "127.0.0.1:1", "auth": auth}]})
    with pytest.raises(ConfigError) as refused:
        load_access(config)
    assert str(refused.value).startswith("listeners[0].auth.")
    assert says in str(refused.value)


def test_a08_without_its_files_a_node_does_not_start_and_touches_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.listen(auth={"tokens": str(tmp_path / "tokens")})
    with site.node().launch() as node:
        assert node.wait_exit() == 2
    assert "listeners[0].auth.tokens: " in node.log
    assert not (tmp_path / "data").exists()
