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
from federation.access.proxy import ProxiedClients, comes_from
from federation.access.tls import KeyPair
from federation.access.watched_file import LiveFile
from federation.config.auth import ProxyConfig
from federation.config.model import ListenerConfig
from federation.core.errors import NotAuthenticated
from tests.support.certificates import Files, self_signed
from tests.support.polling import wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client, outcome

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
HEADER = "x-client-cert"


class Call:
    """A call as grpc shows it."""

    def __init__(self, peer: str, *headers: tuple[str, str]) -> None:
        self._peer = peer
        self._headers = headers

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> Any:
        return self._headers


def proxied(*addresses: str) -> ProxiedClients:
    settings = ProxyConfig.model_validate({"addresses": list(addresses), "client-certs": "/list"})
    pair = KeyPair(b"", b"")
    return ProxiedClients(settings, LiveFile("tls_files", "here", [], lambda: pair, pair))


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
    assert comes_from(peer, networks("10.0.0.0/24", "::1")) is inside


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


@pytest.mark.parametrize(
    "proxy",
    [
        {"addresses": []},
        {"addresses": ["10.0.0.1/8"]},
        {"addresses": ["localhost"]},
        {"addresses": ["::1"], "header": "X-Client-Cert"},
        {"addresses": ["::1"], "header": "grpc-timeout"},
        {"addresses": ["::1"], "header": "cert-bin"},
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
            return outcome(lambda: stub(request, metadata=headers, timeout=10))


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
            assert outcome(lambda: check(b"", metadata=headers, timeout=10)) is wanted  # noqa: B023


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
        wait_until(lambda: site.ask(node, site.bob) is OK, "the new list", timeout_s=5)
        assert site.ask(node, site.alice) is DENIED


def test_a08_a_list_that_is_not_there_refuses_the_start(site: Site) -> None:
    site.list.unlink()
    proxy = {"addresses": ["127.0.0.1"], "client-certs": str(site.list)}
    listener = {"address": "127.0.0.1:0", "push": True, "auth": {"proxy": proxy}}
    with Node(site.folder / "data", {"listeners": [listener]}).launch() as node:
        assert node.wait_exit() == 2
    assert "listeners[0].auth.proxy.client-certs" in node.log
