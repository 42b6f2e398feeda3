"""A node behind nginx with the configuration of docs/examples: who and what gets through."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import digest_of
from tests.clients.buildstream import ELEMENTS, Project, User, artifacts, queue
from tests.clients.tools import tool
from tests.support.certificates import Files, self_signed
from tests.support.polling import wait_until
from tests.support.ports import held_ports
from tests.support.process import Node, serve
from tests.support.process_client import Client, outcome

pytestmark = pytest.mark.clients

CONFIG = Path(__file__).parents[2] / "docs" / "examples" / "nginx.conf"
OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
SECRET = "0123456789abcdef" * 4
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


class Site(NamedTuple):
    """nginx's two ports, the node behind them, and people with certificates."""

    pull: str
    push: str
    node: Node
    trusted: Path
    alice: Files
    mallory: Files

    def connect(self, address: str, me: Files | None = None) -> Client:
        key, chain = (me.key.read_bytes(), me.certificate.read_bytes()) if me else (None, None)
        credentials = grpc.ssl_channel_credentials(self.trusted.read_bytes(), key, chain)
        return Client(address, credentials=credentials)

    def server(self, address: str, *, push: bool, me: Files | None = None) -> dict[str, Any]:
        """Return BuildStream's entry of one server."""
        auth = {"server-cert": str(self.trusted)}
        if me is not None:
            auth |= {"client-cert": str(me.certificate), "client-key": str(me.key)}
        return {"url": f"https://{address}", "push": push, "auth": auth}


@contextmanager
def nginx(folder: Path, text: str) -> Iterator[None]:
    """Run it with this configuration, files and folders of its own, in the foreground."""
    (folder / "nginx").mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/nginx/{kind};\n" for kind in kinds)
    config = folder / "nginx.conf"
    head = f"user root;\ndaemon off;\npid {folder}/nginx/pid;\nerror_log stderr;\n"
    config.write_text(head + text.replace("http {", f"http {{\naccess_log off;\n{temporary}", 1))
    with (folder / "nginx.log").open("wb") as log:
        command: list[str | Path] = [tool("nginx"), "-e", "stderr", "-p", folder, "-c", config]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("proxy")
    server = self_signed(folder)
    alice, mallory = (self_signed(folder, name, hosts=()) for name in ("alice", "mallory"))
    listed = folder / "authorized.crt"
    listed.write_bytes(alice.certificate.read_bytes())
    text = CONFIG.read_text().replace("/etc/federation/", f"{folder}/")
    (folder / "proxy-secret").write_text(f"{SECRET}\n")
    (folder / "proxy-secret.nginx").write_text(f"grpc_set_header x-proxy-secret {SECRET};\n")
    proxy = {
        "addresses": ["127.0.0.1"],
        "client-certs": str(listed),
        "secret": str(folder / "proxy-secret"),
    }
    listeners = [
        {"address": "127.0.0.1:0"},
        {"address": "127.0.0.1:0", "push": True, "auth": {"proxy": proxy}},
    ]
    with (
        held_ports(2) as (pull, push),
        serve(folder / "data", {"listeners": listeners}) as node,
    ):
        inner = [address.rpartition(":")[2] for address in node.addresses]
        for old, new in zip(
            ("11101", "11102", "11001", "11002"), (*inner, pull, push), strict=True
        ):
            text = re.sub(rf"\b{old}\b", str(new), text)
        with nginx(folder, text):
            site = Site(
                f"localhost:{pull}", f"localhost:{push}", node, server.certificate, alice, mallory
            )
            for port in (pull, push):
                wait_until(lambda: _answers(port), "nginx")  # noqa: B023
            yield site


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except OSError:
        return False
    return True


def test_large_blobs_and_small_ones_go_through_in_both_directions(site: Site) -> None:
    large, small = b"x" * 30_000_000, [b"%d" % number for number in range(500)]
    with site.connect(site.push, site.alice) as alice:
        assert alice.write(large) == len(large)
        assert set(alice.batch_update(small)) == {OK}
    with site.connect(site.pull) as reader:
        assert reader.read(digest_of(large)) == large
        assert len(reader.batch_read(map(digest_of, small))) == len(small)
        assert not reader.find_missing([digest_of(large)])


def test_only_listed_clients_push_whatever_they_say_of_themselves(site: Site) -> None:
    data = b"never stored"
    for me, code in ((None, UNAUTHENTICATED), (site.mallory, DENIED)):
        with site.connect(site.push, me) as client:
            assert outcome(lambda: client.write(data)) is code
            forged = [("x-client-cert", quote(site.alice.certificate.read_text()))]
            ask = client.capabilities_stub.GetCapabilities
            request = reapi.GetCapabilitiesRequest()
            assert outcome(lambda: ask(request, metadata=forged, timeout=60)) is code  # noqa: B023
    with site.connect(site.pull, site.alice) as client:
        assert outcome(lambda: client.write(data)) is DENIED
    with site.connect(site.pull) as reader:
        assert reader.find_missing([digest_of(data)])


def test_a_program_beside_nginx_does_not_pass_for_it(site: Site) -> None:
    shown = [("x-client-cert", quote(site.alice.certificate.read_text()))]
    with Client(site.node.addresses[1]) as client:
        ask = client.cas.BatchUpdateBlobs
        request = reapi.BatchUpdateBlobsRequest()
        assert outcome(lambda: ask(request, metadata=shown, timeout=60)) is UNAUTHENTICATED


def test_real_buildstream_pushes_and_pulls(site: Site, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    pushing = site.server(site.push, push=True, me=site.alice)
    alice = User(tmp_path / "alice", project, **artifacts(pushing))
    assert queue(alice.bst("build", "app.bst"), "Push") == (ELEMENTS, 0, 0)
    project.forget_origin()
    bob = User(tmp_path / "bob", project, **artifacts(site.server(site.pull, push=False)))
    assert queue(bob.bst("build", "app.bst"), "Build")[0] == 0
    assert bob.checkout("app.bst") == alice.checkout("app.bst")
    refused = site.server(site.push, push=True, me=site.mallory)
    mallory = User(tmp_path / "mallory", project, **artifacts(refused))
    assert "Failed to initialize remote" in mallory.bst("artifact", "push", "app.bst", code=None)
