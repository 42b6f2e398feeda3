"""Clients that a proxy names: believed from its addresses only, and compared with a list whole."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.message import Message

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.access.incoming_call import ShownCertificate, parse_peer
from federation.access.proxy import ProxiedClients, comes_from, parse_secrets
from federation.access.tls import KeyPair
from federation.access.watched_file import LiveFile
from federation.config.auth import ProxyConfig
from federation.config.model import ListenerConfig
from federation.core.errors import ConfigError, NotAuthenticated
from tests.support.certificates import Files, self_signed
from tests.support.polling import wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client, outcome

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
HEADER = "x-client-cert"
SECRET, OTHER_SECRET = b"0123456789abcdef" * 2, b"fedcba9876543210" * 2


class Call:
    """A call as a transport shows it."""

    def __init__(self, peer: str, *headers: tuple[str, str]) -> None:
        self.peer = parse_peer(peer)
        self.headers = headers

    def certificate(self) -> ShownCertificate:
        return ShownCertificate()


def proxied(*addresses: str, secret: bool = False) -> ProxiedClients:
    settings = ProxyConfig.model_validate({"addresses": list(addresses), "client-certs": "/list"})
    pair = KeyPair(b"", b"")
    secrets = parse_secrets(SECRET + b"\n" + OTHER_SECRET, "here")
    shown = LiveFile("proxy_secret", "here", [], lambda: secrets, secrets)
    listed = LiveFile("tls_files", "here", [], lambda: pair, pair)
    return ProxiedClients(settings, listed, shown if secret else None)


def networks(*texts: str) -> Any:
    return proxied(*texts)._networks


@pytest.mark.parametrize(
    ("peer", "inside"),
    [
        ("ipv4:10.0.0.7:4711", True),
        ("ipv4:10.0.1.7:4711", False),
        ("ipv6:[::1]:4711", True),
        ("ipv6:%5B::1%5D:4711", True),
        ("ipv6:%5B::ffff:10.0.0.7%5D:4711", True),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", False),
        ("ipv4:10.0.0.7", False),
        ("unix:/run/x", False),
        ("", False),
        ("ipv4:garbage:1", False),
    ],
)
def test_addresses_are_those_of_the_connection(peer: str, inside: bool) -> None:
    assert comes_from(parse_peer(peer), networks("10.0.0.0/24", "::1")) is inside


def test_the_header_counts_from_the_proxys_addresses_only() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    believed = proxied("10.0.0.1")
    assert believed.certificate_of(Call("ipv4:10.0.0.1:1", (HEADER, quote(pem)))) == pem.encode()
    assert believed.certificate_of(Call("ipv4:10.0.0.2:1", (HEADER, quote(pem)))) == b""
    assert believed.certificate_of(Call("ipv4:10.0.0.1:1")) == b""
    assert believed.certificate_of(Call("ipv4:10.0.0.1:1", (HEADER, ""))) == b""


@pytest.mark.parametrize("value", ["rubbish", "x" * 70_000, "%ff", "-----BEGIN%20PRIVATE%20KEY"])
def test_what_is_no_certificate_is_refused(value: str) -> None:
    with pytest.raises(NotAuthenticated, match=HEADER):
        proxied("10.0.0.1").certificate_of(Call("ipv4:10.0.0.1:1", (HEADER, value)))


def test_two_headers_are_refused() -> None:
    call = Call("ipv4:10.0.0.1:1", (HEADER, "a"), (HEADER, "b"))
    with pytest.raises(NotAuthenticated, match="more than one"):
        proxied("10.0.0.1").certificate_of(call)


def test_two_certificates_are_refused_with_what_to_send() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    call = Call("ipv4:10.0.0.1:1", (HEADER, quote(pem + pem)))
    with pytest.raises(NotAuthenticated, match=r"has 2 certificates.*client's own alone"):
        proxied("10.0.0.1").certificate_of(call)


@pytest.mark.parametrize("shown", [[], [b"wrong" * 10], [SECRET, SECRET], [SECRET[:-1]], [b""]])
def test_without_the_proxys_secret_nobody_passes_for_it(shown: list[bytes]) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    believed = proxied("10.0.0.1", secret=True)
    headers = [(HEADER, quote(pem)), *(("x-proxy-secret", each.decode()) for each in shown)]
    with pytest.raises(NotAuthenticated, match="x-proxy-secret"):
        believed.certificate_of(Call("ipv4:10.0.0.1:1", *headers))
    for good in (SECRET, OTHER_SECRET):
        headers = [(HEADER, quote(pem)), ("x-proxy-secret", good.decode())]
        assert believed.certificate_of(Call("ipv4:10.0.0.1:1", *headers)) == pem.encode()
    assert believed.certificate_of(Call("ipv4:10.0.0.1:1")) == b""  # it names nobody


@pytest.mark.parametrize("data", [b"", b"\n", b"short\n", b"a b" * 20, b"\xff" * 40, b"x" * 2000])
def test_a_file_without_a_usable_secret_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="openssl rand") as refused:
        parse_secrets(data, "here")
    assert data.strip() == b"" or data.decode("latin-1").strip() not in str(refused.value)


@pytest.mark.parametrize(
    "proxy",
    [
        {"addresses": []},
        {"addresses": ["10.0.0.1/8"]},
        {"addresses": ["localhost"]},
        {"addresses": ["::1"], "header": "X-Client-Cert"},
        {"addresses": ["::1"], "header": "grpc-timeout"},
        {"addresses": ["::1"], "header": "cert-bin"},
        {"addresses": ["::1"], "header": "x-proxy-secret"},
    ],
)
def test_what_cannot_be_meant_is_refused(proxy: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"address|header"):
        ProxyConfig.model_validate({**proxy, "client-certs": "/list"})


def test_a_listener_with_a_proxy_alone_is_a_good_one() -> None:
    proxy = {"addresses": ["::1"], "client-certs": "/list"}
    rules = [{"subject": "CN=ci-*", "role": "push"}]
    auth = {"proxy": proxy, "clients": rules}
    assert ListenerConfig.model_validate({"address": "[::1]:1", "auth": auth}).auth


class Site:
    """A node that believes somebody on one address, and people with certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.list = folder / "authorized.crt"
        self.alice, self.bob, self.ci = (self_signed(folder, n) for n in ("alice", "bob", "ci"))
        self.authorize(self.alice, self.ci)

    def authorize(self, *listed: Files) -> None:
        fresh = self.folder / "fresh"
        fresh.write_bytes(b"".join(each.certificate.read_bytes() for each in listed))
        fresh.replace(self.list)

    def node(self, address: str, **auth: Any) -> AbstractContextManager[Node]:
        proxy = {"addresses": [address], "client-certs": str(self.list)}
        listener = {"address": "127.0.0.1:0", "push": True, "auth": {"proxy": proxy, **auth}}
        return serve(self.folder / "data", {"listeners": [listener]})

    def ask(self, node: Node, me: Files | None, *, push: bool = True) -> grpc.StatusCode:
        """Say what somebody gets who comes through a proxy that saw this certificate."""
        headers = [(HEADER, quote(me.certificate.read_text()))] if me else []
        request: Message
        with Client(node.address) as client:
            if push:
                stub, request = client.cas.BatchUpdateBlobs, reapi.BatchUpdateBlobsRequest()
            else:
                stub, request = client.cas.FindMissingBlobs, reapi.FindMissingBlobsRequest()
            return outcome(lambda: stub(request, metadata=headers, timeout=60))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_who_is_listed_is_let_in_and_nobody_else(site: Site) -> None:
    minted = self_signed(site.folder, "minted", issuer=site.alice)
    with site.node("127.0.0.1") as node:
        assert site.ask(node, site.alice) is OK
        assert site.ask(node, site.bob) is DENIED
        assert site.ask(node, minted) is DENIED
        assert site.ask(node, None) is UNAUTHENTICATED
        wait_until(lambda: "client_refused" in node.log and "CN=bob" in node.log, "its lines")


def test_a16_health_is_answered_behind_a_proxy_unless_what_it_sends_is_no_good(site: Site) -> None:
    shown = (HEADER, quote(site.alice.certificate.read_text()))
    stranger = (HEADER, quote(site.bob.certificate.read_text()))
    with site.node("127.0.0.1") as node, Client(node.address) as client:
        check = client.channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
        for headers, wanted in (
            ((), OK),
            ((shown,), OK),
            ((stranger,), DENIED),
            ((shown, shown), UNAUTHENTICATED),
        ):
            assert outcome(lambda: check(b"", metadata=headers, timeout=60)) is wanted  # noqa: B023


def test_the_same_header_from_elsewhere_counts_for_nothing(site: Site) -> None:
    with site.node("10.11.12.13") as node:
        assert site.ask(node, site.alice) is UNAUTHENTICATED
        assert site.ask(node, site.alice, push=False) is UNAUTHENTICATED


def test_rules_apply_and_callers_without_a_certificate_may_read_where_that_is_said(
    site: Site,
) -> None:
    rules = [{"subject": "CN=ci", "role": "push"}, {"subject": "*", "role": "pull"}]
    with site.node("127.0.0.1", clients=rules, anonymous="pull") as node:
        assert site.ask(node, site.ci) is OK
        assert site.ask(node, site.alice) is DENIED
        assert site.ask(node, site.alice, push=False) is OK
        assert site.ask(node, None, push=False) is OK
        assert site.ask(node, None) is UNAUTHENTICATED


def test_a09_a_changed_list_counts_from_the_next_call_on(site: Site) -> None:
    with site.node("127.0.0.1") as node:
        assert site.ask(node, site.alice) is OK
        site.authorize(site.bob)
        wait_until(lambda: site.ask(node, site.bob) is OK, "the new list")
        assert site.ask(node, site.alice) is DENIED


def test_a08_a_list_that_is_not_there_refuses_the_start(site: Site) -> None:
    site.list.unlink()
    proxy = {"addresses": ["127.0.0.1"], "client-certs": str(site.list)}
    listener = {"address": "127.0.0.1:0", "push": True, "auth": {"proxy": proxy}}
    with Node(site.folder / "data", {"listeners": [listener]}).launch() as node:
        assert node.wait_exit() == 2
    assert "listeners[0].auth.proxy.client-certs" in node.log


def test_a_secret_that_is_replaced_counts_from_the_next_call_on(site: Site) -> None:
    secret = site.folder / "secret"
    secret.write_bytes(SECRET + b"\n")
    proxy = {"addresses": ["127.0.0.1"], "client-certs": str(site.list), "secret": str(secret)}
    listener = {"address": "127.0.0.1:0", "push": True, "auth": {"proxy": proxy}}
    with serve(site.folder / "data", {"listeners": [listener]}) as node:

        def ask(shown: bytes) -> grpc.StatusCode:
            headers = [(HEADER, quote(site.alice.certificate.read_text()))]
            headers.append(("x-proxy-secret", shown.decode()))
            with Client(node.address) as client:
                request = reapi.BatchUpdateBlobsRequest()
                stub = client.cas.BatchUpdateBlobs
                return outcome(lambda: stub(request, metadata=headers, timeout=60))

        assert site.ask(node, site.alice) is UNAUTHENTICATED
        assert ask(SECRET) is OK
        assert ask(OTHER_SECRET) is UNAUTHENTICATED
        fresh = site.folder / "fresh"
        fresh.write_bytes(OTHER_SECRET + b"\n")
        fresh.replace(secret)
        wait_until(lambda: ask(OTHER_SECRET) is OK, "the new secret")
        assert ask(SECRET) is UNAUTHENTICATED
        assert SECRET.decode() not in node.log


def test_two_certificates_in_the_header_are_a_clear_error(site: Site) -> None:
    both = quote(site.alice.certificate.read_text() + site.bob.certificate.read_text())
    broken = quote(site.alice.certificate.read_text()[:200])
    with site.node("127.0.0.1") as node, Client(node.address) as client:
        request = reapi.BatchUpdateBlobsRequest()
        for value, code in ((both, UNAUTHENTICATED), (broken, DENIED)):
            shown = [(HEADER, value)]
            stub = client.cas.BatchUpdateBlobs
            assert outcome(lambda: stub(request, metadata=shown, timeout=60)) is code  # noqa: B023
