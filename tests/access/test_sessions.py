"""What clients do in TLS other than gRPC's own: old versions, resumed sessions."""

from __future__ import annotations

import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import h2.config
import h2.connection
import h2.events
import pytest

from tests.access import page
from tests.access.test_reload import Site
from tests.support.certificates import Files, self_signed
from tests.support.polling import wait_until

OK, DENIED = "0", "7"
_HEADERS = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "localhost"),
    (":path", "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


class Caller:
    """Connects again and again, each time resuming the session before."""

    def __init__(self, site: Site, me: Files, version: ssl.TLSVersion) -> None:
        self._port = int(site.node.address.rpartition(":")[2])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.load_verify_locations(site.trusted)
        self._context.load_cert_chain(*me)
        self._context.set_alpn_protocols(["h2"])
        self._context.set_ciphers("ALL:@SECLEVEL=0")  # else it is this side that refuses
        with warnings.catch_warnings(action="ignore"):  # old versions are deprecated
            self._context.minimum_version = self._context.maximum_version = version
        self._session: ssl.SSLSession | None = None
        self.resumed: bool | None = False

    def call(self) -> str:
        """Return the grpc-status of a call on a new connection."""
        with (
            socket.create_connection(("localhost", self._port), timeout=60) as plain,
            self._context.wrap_socket(
                plain, server_hostname="localhost", session=self._session
            ) as tls,
        ):
            status = _status(tls)
            self.resumed = tls.session_reused
            self._session = tls.session  # known in TLS 1.3 only after something was read
        return status


def _status(tls: ssl.SSLSocket) -> str:
    link = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
    link.initiate_connection()
    link.send_headers(1, _HEADERS)
    link.send_data(1, b"\0\0\0\0\0", end_stream=True)
    while True:
        tls.sendall(link.data_to_send())
        data = tls.recv(65536)
        assert data, "the connection was closed before it had answered"
        for event in link.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                headers = cast("Iterable[tuple[str, str]]", event.headers)  # decoded, as asked
                found = dict(headers).get("grpc-status")
                if found is not None:
                    return str(found)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a09_a_resumed_session_is_worth_what_its_certificate_is_worth(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    site = Site(tmp_path)
    with site.node.start():
        minted = self_signed(tmp_path, "minted", issuer=site.alice)
        alice, other = Caller(site, site.alice, version), Caller(site, minted, version)
        for again in (False, True):
            assert (alice.call(), alice.resumed) == (OK, again)
            assert (other.call(), other.resumed) == (DENIED, again)
        site.authorize(site.bob)
        wait_until(lambda: "tls_files_taken" in site.node.log, "the new list")
        with pytest.raises((OSError, AssertionError)):  # no session outlives the list it was under
            alice.call()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_a13_old_versions_of_tls_are_refused(tmp_path: Path, version: ssl.TLSVersion) -> None:
    site = Site(tmp_path)
    with site.node.start():
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            Caller(site, site.alice, version).call()
        with page.connect(site.node, site.trusted, site.alice) as client:
            client.capabilities()


def test_a13_a_client_that_renegotiates_is_cut_off_and_nobody_else(tmp_path: Path) -> None:
    """A second handshake within a connection could change who calls, after it was let in."""
    site = Site(tmp_path)
    with site.node.start():
        command = ["openssl", "s_client", "-connect", site.node.address, "-tls1_2"]
        command += ["-alpn", "h2", "-cert", str(site.alice.certificate)]
        command += ["-key", str(site.alice.key), "-CAfile", str(site.trusted)]
        ended = subprocess.run(  # a line with R alone asks for a handshake
            command, input=b"R\n", capture_output=True, timeout=60, check=False
        )
        said = (ended.stdout + ended.stderr).decode(errors="replace")
        assert "RENEGOTIATING" in said
        assert ended.returncode != 0, said  # the connection was ended
        with page.connect(site.node, site.trusted, site.alice) as client:
            client.capabilities()
