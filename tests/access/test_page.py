"""The old server's page, typed as it stands: who gets in, who may write, and what is told to whom.

Both servers run on one directory as real processes, with certificates that have a common name only.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset_pb
from federation._proto.buildstream.v2.buildstream_pb2 import UpdateReferenceRequest
from federation._proto.buildstream.v2.buildstream_pb2_grpc import ReferenceStorageStub
from federation.access.allowlist import fingerprint_of
from federation.core.digest import digest_of
from tests.access import page
from tests.support.certificates import Files, self_signed
from tests.support.process import Node
from tests.support.process_client import Client, action_result, outcome
from tests.support.process_client import message as digest_message

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Site(NamedTuple):
    """Two servers over one directory, and the certificates around them."""

    folder: Path
    trusted: Path
    client: Files
    pull: Node
    push: Node


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("page")
    trusted = page.make(folder, "localhost", "server").certificate
    client = page.make(folder, "client", "client")
    listed = folder / "authorized.crt"
    page.append(client.certificate, listed)
    for name in ("expired", "early"):
        files = self_signed(folder, name, expired=name == "expired", early=name == "early")
        page.append(files.certificate, listed)
    data_dir = folder / "artifacts"
    with (
        page.server(data_dir, page.PULL, "pull").start() as pull,
        page.server(data_dir, page.PUSH, "push").start() as push,
    ):
        yield Site(folder, trusted, client, pull, push)


def files(folder: Path, name: str) -> Files:
    return Files(folder / f"{name}.crt", folder / f"{name}.key")


def stored(site: Site, data: bytes) -> bool:
    with page.connect(site.pull, site.trusted) as reader:
        return not reader.find_missing([digest_of(data)])


def fingerprint(files: Files) -> str:
    command = ["openssl", "x509", "-in", str(files.certificate), "-noout"]
    command += ["-fingerprint", "-sha256"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip().partition("=")[2]


def test_what_a_listed_client_pushes_on_one_port_everybody_pulls_on_the_other(site: Site) -> None:
    data = b"pushed with a certificate" * 1000
    with page.connect(site.push, site.trusted, site.client) as writer:
        writer.write(data)
        writer.push_blob("urn:x", digest_of(data))
    with page.connect(site.pull, site.trusted) as reader:
        assert reader.fetch_blob("urn:x") == digest_of(data)
        assert reader.read(digest_of(data)) == data


WRITES: dict[str, Callable[[Client, bytes], object]] = {
    "Write": lambda client, data: client.write(data),
    "BatchUpdateBlobs": lambda client, data: client.batch_update([data]),
    "UpdateActionResult": lambda client, data: client.update_action_result(
        digest_of(data), action_result([])
    ),
    "PushBlob": lambda client, data: client.push_blob(f"urn:{len(data)}", digest_of(data)),
    "PushDirectory": lambda client, data: client.push.PushDirectory(
        asset_pb.PushDirectoryRequest(
            uris=["urn:d"], root_directory_digest=digest_message(digest_of(data))
        )
    ),
    "UpdateReference": lambda client, data: ReferenceStorageStub(client.channel).UpdateReference(
        UpdateReferenceRequest(keys=["p/e/k"], digest=digest_message(digest_of(data)))
    ),
}


@pytest.mark.parametrize("method", WRITES)
def test_a01_no_writing_call_gets_through_on_the_pull_port(site: Site, method: str) -> None:
    data = f"never stored, by {method}".encode()
    for me in (None, site.client):
        with page.connect(site.pull, site.trusted, me) as client:
            assert outcome(lambda: WRITES[method](client, data)) is DENIED
            assert client.get_action_result(digest_of(data)) is None
            assert client.fetch_blob(f"urn:{len(data)}") is None
    assert not stored(site, data)


def test_a01_splicing_is_not_there_on_either_port(site: Site) -> None:
    method = "/build.bazel.remote.execution.v2.ContentAddressableStorage/SpliceBlob"
    for node in (site.pull, site.push):
        with page.connect(node, site.trusted, site.client) as client:
            splice = client.channel.unary_unary(method, None, None)
            assert outcome(lambda: splice(b"")) is grpc.StatusCode.UNIMPLEMENTED  # noqa: B023


def test_a02_nobody_pushes_without_a_certificate_or_in_plain_text(site: Site) -> None:
    data = b"never stored: no certificate"
    with page.connect(site.push, site.trusted) as client:
        assert outcome(lambda: client.write(data)) is UNAVAILABLE
    with Client(page.local(site.push)) as client:
        assert outcome(lambda: client.write(data)) is UNAVAILABLE
    assert not stored(site, data)


def test_a03_unlisted_certificates_and_copies_of_a_name_are_refused(site: Site) -> None:
    listed = x509.load_pem_x509_certificate(site.client.certificate.read_bytes())
    copies = [
        self_signed(site.folder, "stranger"),
        self_signed(site.folder, "client-copy", cn="client", serial=listed.serial_number),
    ]
    for copy in copies:
        data = copy.key.read_bytes()
        with page.connect(site.push, site.trusted, copy) as client:
            assert outcome(lambda: client.write(data)) is UNAVAILABLE  # noqa: B023
        assert not stored(site, data)


@pytest.mark.parametrize("with_chain", [False, True])
def test_a04_what_a_listed_certificate_signed_gets_nowhere(site: Site, with_chain: bool) -> None:
    minted = self_signed(site.folder, f"minted-{with_chain}", issuer=site.client)
    if with_chain:
        page.append(site.client.certificate, minted.certificate)
    leaf = x509.load_pem_x509_certificate(minted.certificate.read_bytes())
    data = minted.key.read_bytes()
    with page.connect(site.push, site.trusted, minted) as client:
        for write in WRITES.values():
            assert outcome(lambda: write(client, data)) is DENIED  # noqa: B023
        assert outcome(client.capabilities) is DENIED
        assert outcome(lambda: client.read(digest_of(b""))) is DENIED
        health = client.channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
        assert outcome(lambda: health(b"")) is DENIED
        watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)
        assert outcome(lambda: list(watch(b""))) is DENIED
    assert not stored(site, data)
    assert fingerprint(minted) == fingerprint_of(leaf.public_bytes(Encoding.DER))
    assert fingerprint(minted) in site.push.log
    assert "client_refused" in site.push.log


def test_a05_listed_certificates_out_of_their_dates_are_refused_and_named(site: Site) -> None:
    for name, says in (("expired", "expired on"), ("early", "is not valid before")):
        me = files(site.folder, name)
        with page.connect(site.push, site.trusted, me) as client:
            assert outcome(lambda: client.write(b"never stored: dates")) is UNAVAILABLE
        (line,) = (x for x in site.push.log.splitlines() if fingerprint(me) in x)
        assert says in line
        assert f"CN={name}" in line
    assert not stored(site, b"never stored: dates")


def test_a17_each_port_says_what_its_callers_may_do(site: Site) -> None:
    for node, may_update in ((site.pull, False), (site.push, True)):
        with page.connect(node, site.trusted, site.client) as client:
            cache = client.capabilities().cache_capabilities
            assert cache.action_cache_update_capabilities.update_enabled is may_update


BAD_LISTS: dict[str, tuple[bytes | None, str]] = {
    "absent": (None, "No such file"),
    "empty": (b"", "no certificate in it"),
    "comments only": (b"# nobody\n", "no certificate in it"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_a08_a_list_that_lets_nobody_in_refuses_the_start(
    site: Site, tmp_path: Path, name: str
) -> None:
    for copied in ("server.crt", "server.key"):
        shutil.copy(site.folder / copied, tmp_path)
    content, says = BAD_LISTS[name]
    if content is not None:
        (tmp_path / "authorized.crt").write_bytes(content)
    with page.server(tmp_path / "artifacts", page.PUSH, "refused").launch() as node:
        assert node.wait_exit() == 2
    assert says in node.log
    assert "authorized.crt" in node.log
    assert not (tmp_path / "artifacts").exists()
