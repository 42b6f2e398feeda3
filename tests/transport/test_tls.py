"""TLS without sockets: who is let in, by the files as they are when a client connects."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from federation.access.live_tls import LiveTls
from federation.access.tls import load_pair
from federation.access.tls_contexts import HTTP2, Contexts
from federation.config.model import TlsConfig
from federation.core.clock import SystemClock
from federation.transport.tls import TlsLayer, TlsRefused
from tests.support.certificates import Files, self_signed


class Client:
    """The other end of a TlsLayer."""

    def __init__(self, me: Files | None, protocols: list[str], ticket: object = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if protocols:
            context.set_alpn_protocols(protocols)
        if me is not None:
            context.load_cert_chain(*me)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")

    def talk(self, layer: TlsLayer, *said: bytes) -> list[bytes]:
        """Shake hands and say this; return what the server's side understood."""
        found: list[bytes] = []
        for _ in range(6):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            else:
                while said:
                    self.tls.write(said[0])
                    said = said[1:]
            found += layer.receive(memoryview(self._out.read()))
            self._in.write(layer.take())
        return found

    def says(self, data: bytes) -> bytes:
        """Return what this is on the wire."""
        self.tls.write(data)
        return self._out.read()

    def hears(self, layer: TlsLayer, data: bytes) -> bytes:
        """Have the server's side say something; return what comes here."""
        layer.send(data)
        self._in.write(layer.take())
        return self.tls.read(len(data))


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = self_signed(folder, "server")
        self.tls = {"server_cert": self.server.certificate, "server_key": self.server.key}

    def contexts(self, **lists: Path) -> Contexts:
        config = TlsConfig(**self.tls, **lists)
        self.live = LiveTls(config, "here", load_pair(config, "here"), SystemClock())
        return Contexts(self.live, HTTP2)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def layer_of(contexts: Contexts) -> TlsLayer:
    return TlsLayer(contexts.current())


def test_bytes_pass_both_ways(site: Site) -> None:
    layer, client = layer_of(site.contexts()), Client(None, ["h2"])
    assert b"".join(client.talk(layer, b"hello", bytes(100_000))) == b"hello" + bytes(100_000)
    assert client.hears(layer, b"answer") == b"answer"
    assert layer.shown().leaf == b""


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
def test_a_client_that_does_not_speak_http2_is_refused(site: Site, protocols: list[str]) -> None:
    with pytest.raises(TlsRefused):
        Client(None, protocols).talk(layer_of(site.contexts()))


def test_a_listed_certificate_is_let_in_though_it_is_no_authoritys(site: Site) -> None:
    issuer = self_signed(site.folder, "issuer", authority=True)
    alice = self_signed(site.folder, "alice", issuer=issuer)
    layer = layer_of(site.contexts(client_certs=alice.certificate))
    assert Client(alice, ["h2"]).talk(layer, b"x") == [b"x"]
    assert layer.shown().leaf == alice.certificate.read_bytes()
    assert layer.shown().chain == alice.certificate.read_bytes()


@pytest.mark.parametrize("shown", ["nothing", "a stranger", "expired"])
def test_others_are_not_let_in(site: Site, shown: str) -> None:
    alice = self_signed(site.folder, "alice", expired=shown == "expired")
    stranger = self_signed(site.folder, "stranger")
    me = {"nothing": None, "a stranger": stranger, "expired": alice}[shown]
    layer = layer_of(site.contexts(client_certs=alice.certificate))
    with pytest.raises(TlsRefused) as refused:
        Client(me, ["h2"]).talk(layer, b"x")
    assert layer.take()  # the alert, which says why
    assert refused.value.reason in {
        "PEER_DID_NOT_RETURN_A_CERTIFICATE",
        "CERTIFICATE_VERIFY_FAILED",
    }


def test_whom_an_authority_signed_is_let_in_with_the_chain_that_was_sent(site: Site) -> None:
    authority = self_signed(site.folder, "authority", authority=True)
    between = self_signed(site.folder, "between", authority=True, issuer=authority)
    bob = self_signed(site.folder, "bob", issuer=between)
    sent = bob.certificate.read_bytes() + between.certificate.read_bytes()
    bob.certificate.write_bytes(sent)
    layer = layer_of(site.contexts(client_ca=authority.certificate))
    assert Client(bob, ["h2"]).talk(layer, b"x") == [b"x"]
    assert layer.shown().chain == sent


def test_who_connects_is_met_with_the_files_as_they_are(site: Site) -> None:
    alice, bob = (self_signed(site.folder, name) for name in ("alice", "bob"))
    listed = site.folder / "listed"
    listed.write_bytes(alice.certificate.read_bytes())
    contexts = site.contexts(client_certs=listed)
    connected = layer_of(contexts)
    before = Client(alice, ["h2"])
    assert before.talk(connected, b"x") == [b"x"]

    listed.write_bytes(bob.certificate.read_bytes())
    self_signed(site.folder, "server")  # another pair, at the same places
    site.live.refresh(asked=True)
    site.live.refresh(asked=True)
    after = Client(bob, ["h2"])
    assert after.talk(layer_of(contexts), b"y") == [b"y"]
    shown = after.tls.getpeercert(binary_form=True)
    assert shown != before.tls.getpeercert(binary_form=True)
    with pytest.raises(TlsRefused):
        Client(alice, ["h2"]).talk(layer_of(contexts))
    assert before.hears(connected, b"goes on") == b"goes on"


def test_plain_text_and_old_tls_are_refused(site: Site) -> None:
    with pytest.raises(TlsRefused) as refused:
        layer_of(site.contexts()).receive(memoryview(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
    assert refused.value.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST"}
    assert site.contexts().current().minimum_version is ssl.TLSVersion.TLSv1_2


def test_no_session_is_resumed(site: Site) -> None:
    context = site.contexts().current()
    assert context.num_tickets == 0
    assert context.options & ssl.OP_NO_TICKET
