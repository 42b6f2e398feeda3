"""Who may do what on a listener of a whole node: tokens, certificates, quotas, drain."""

from __future__ import annotations

import base64
import http.client
import os
import shutil
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from federation.access.rights import Role
from federation.access.tokens import RANDOM_BYTES, make_token
from federation.core.clock import SystemClock
from tests.http_cache.http_client import HttpClient, cas_path
from tests.support.certificates import Files, self_signed
from tests.support.polling import wait_until
from tests.support.process import Node, serve

VALUE = b"value"


@contextmanager
def node_with(folder: Path, listener: dict[str, Any], **more: Any) -> Iterator[Node]:
    listeners = [{"address": "127.0.0.1:0", "protocol": "http", "push": True, **listener}]
    settings = {"listeners": listeners, **more}
    with serve(folder / "data", settings) as node:
        yield node


def basic(token: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"ci:{token}".encode()).decode()}


def test_a_token_opens_as_bearer_and_as_password_and_nothing_else_does(tmp_path: Path) -> None:
    now_s = SystemClock().wall_s()
    writer = make_token(Role.PUSH, os.urandom(RANDOM_BYTES), now_s, instances=("kv/*",))
    reader = make_token(Role.PULL, os.urandom(RANDOM_BYTES), now_s)
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{writer.line}\n{reader.line}\n")
    tokens.chmod(0o600)
    with node_with(tmp_path, {"auth": {"tokens": str(tokens)}}) as node:
        client = HttpClient(node.address)
        for headers in ({"Authorization": f"Bearer {writer.text}"}, basic(writer.text)):
            assert client.ask("PUT", "/kv/main/k", VALUE, headers).status == 200
            assert client.ask("GET", "/kv/main/k", headers=headers).body == VALUE
            assert client.ask("PUT", "/gradle/aa", VALUE, headers).status == 403
        assert client.ask("GET", "/kv/main/k", headers=basic(reader.text)).body == VALUE
        assert client.ask("PUT", "/kv/main/k", VALUE, basic(reader.text)).status == 403
        for headers in ({}, basic("wrong"), {"Authorization": "Digest x"}):
            for method in ("GET", "PUT"):
                answer = client.ask(method, "/kv/main/k", headers=headers)
                assert answer.status == 401
                assert answer.headers["www-authenticate"] == 'Basic realm="federation"'
                assert answer.headers["content-type"] == "text/plain"
        assert client.ask("GET", "/status").status == 200
        tokens.write_text(f"{reader.line}\n")
        wait_until(
            lambda: client.ask("GET", "/kv/main/k", headers=basic(writer.text)).status == 401,
            "the revoked token to be refused",
        )


def context_for(server: Files, client: Files | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(server.certificate))
    if client is not None:
        context.load_cert_chain(*client)
    return context


def test_tls_with_listed_clients_whose_files_are_exchanged_while_it_runs(tmp_path: Path) -> None:
    server, other = self_signed(tmp_path, "server"), self_signed(tmp_path, "other")
    client, stranger = self_signed(tmp_path, "client"), self_signed(tmp_path, "stranger")
    listed = tmp_path / "listed.crt"
    shutil.copy(client.certificate, listed)
    cert, key = tmp_path / "live.crt", tmp_path / "live.key"
    shutil.copy(server.certificate, cert)
    shutil.copy(server.key, key)
    tls = {"server-cert": str(cert), "server-key": str(key), "client-certs": str(listed)}
    with node_with(tmp_path, {"tls": tls}) as node:
        address = node.address.replace("127.0.0.1", "localhost")
        good = HttpClient(address, tls=context_for(server, client))
        assert good.ask("PUT", "/kv/main/k", VALUE).status == 200
        large = os.urandom(3_000_000)
        path = good.put_blob(large)
        assert good.get(path) == large
        for shown in (None, stranger):
            bad = HttpClient(address, tls=context_for(server, shown))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                bad.ask("GET", "/kv/main/k")
        with pytest.raises((OSError, http.client.HTTPException)):
            HttpClient(node.address).ask("GET", "/kv/main/k")  # no TLS at all
        shutil.copy(other.key, key)
        shutil.copy(other.certificate, cert)
        shutil.copy(stranger.certificate, listed)
        new = HttpClient(address, tls=context_for(other, stranger))

        def is_exchanged() -> bool:
            try:
                return new.ask("GET", "/kv/main/k").body == VALUE
            except (ssl.SSLError, ConnectionError):
                return False

        wait_until(is_exchanged, "the new certificate and list")


def test_a_caller_over_its_quota_waits_and_is_not_refused(tmp_path: Path) -> None:
    limits = {"uploads-per-caller": 1, "bandwidth-per-caller": "2M", "drain": "5s"}
    with node_with(tmp_path, {}, limits=limits) as node:
        client = HttpClient(node.address)
        data = os.urandom(3_000_000)
        path = client.put_blob(data)
        assert client.get(path) == data
        assert node.metrics().value("federation_callers_held_back_total", by="bandwidth") > 0


def _is_refused(address: str) -> bool:
    connection = http.client.HTTPConnection(address)
    try:
        connection.connect()
    except ConnectionError:
        return True
    connection.close()
    return False


def test_running_calls_end_well_while_the_node_drains(tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    with node_with(tmp_path, {}) as node:
        idle = http.client.HTTPConnection(node.address)
        idle.request("GET", "/status")
        idle.getresponse().read()
        busy = http.client.HTTPConnection(node.address)
        busy.putrequest("PUT", cas_path(data))
        busy.putheader("Content-Length", str(len(data)))
        busy.endheaders()
        busy.send(data[:500_000])
        wait_until(
            lambda: node.metrics().value("federation_requests_running") == 1, "the upload to begin"
        )
        node.signal(signal.SIGTERM)
        wait_until(lambda: _is_refused(node.address), "the node to drain")
        busy.send(data[500_000:])
        answer = busy.getresponse()
        assert (answer.status, answer.getheader("connection")) == (200, "close")
        busy.close()
        idle.close()
        assert node.wait_exit() == 0
