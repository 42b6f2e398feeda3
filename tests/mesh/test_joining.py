"""Joining a real node: once, with the right code, and what everybody else gets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from federation._proto.federation.v1 import mesh_pb2, mesh_pb2_grpc
from federation.core.clock import Clock, ManualClock, SystemClock
from federation.core.errors import ConfigError
from federation.mesh.invitation import parse_code
from federation.mesh.joining import CodeNotTaken, Inviter
from federation.remote.credentials import Certificates
from federation.remote.failures import RemoteFailed
from federation.wire.mesh import Joining, encode_introduction, encode_join
from tests.faults.replication.link import Mode
from tests.mesh.served import ServedSite
from tests.mesh.sites import MeshSite
from tests.support.certificates import self_signed
from tests.support.polling import wait_until
from tests.support.process_client import Client, outcome


@pytest.fixture
def paris(tmp_path: Path) -> Iterator[ServedSite]:
    with ExitStack() as stack:
        log = {"format": "json"}
        yield ServedSite(tmp_path, "paris", stack, log=log).start()


@pytest.fixture
def tokyo(tmp_path: Path) -> MeshSite:
    return MeshSite(tmp_path, "tokyo")


def inviter(site: MeshSite, code: str, clock: Clock | None = None) -> Inviter:
    return Inviter(parse_code(code), site.me, own_of(site), clock or SystemClock())


def own_of(site: MeshSite) -> Certificates:
    files = site.folder.files
    return Certificates(key=files.client_key.read_bytes(), chain=files.client_cert.read_bytes())


def join(site: MeshSite, code: str) -> Joining:
    return asyncio.run(inviter(site, code).join())


def refused(site: MeshSite, code: str) -> str:
    """Try to join, without a pause between the tries; return why that fails."""
    with pytest.raises((CodeNotTaken, RemoteFailed)) as failed:
        asyncio.run(inviter(site, code, ManualClock()).join())
    return str(failed.value)


def known_to(paris: ServedSite, code: str) -> str:
    """Wait until the node takes the code."""
    asyncio.run(inviter(MeshSite(paris.data_dir, "someone"), code).preview())
    return code


def connect(paris: ServedSite, shown: Certificates) -> Client:
    server = paris.folder.files.server_cert.read_bytes()
    credentials = grpc.ssl_channel_credentials(server, shown.key, shown.chain)
    return Client(paris.link.address, credentials=credentials)


def shown_for(code: str) -> Certificates:
    pair = parse_code(code).pair()
    return Certificates(key=pair.key, chain=pair.certificate)


def test_looking_changes_nothing_and_joining_does(paris: ServedSite, tokyo: MeshSite) -> None:
    code = paris.invite()
    for _ in range(3):
        found = asyncio.run(inviter(tokyo, code).preview())
        assert found == Joining(paris.me, [])
    assert paris.knows() == {}
    assert join(tokyo, code) == Joining(paris.me, [])
    assert paris.knows() == {"tokyo": "invited"}
    assert "member_joined" in paris.node.log


def test_a_code_that_was_used_admits_nobody_else(
    paris: ServedSite, tokyo: MeshSite, tmp_path: Path
) -> None:
    code = paris.invite()
    join(tokyo, code)
    osaka = MeshSite(tmp_path, "osaka")
    assert "used" in refused(osaka, code)  # also before the listener has forgotten it

    def end() -> grpc.StatusCode:
        with connect(paris, shown_for(code)) as client:
            return outcome(lambda: client.write(b"x"))

    wait_until(lambda: end() is grpc.StatusCode.UNAVAILABLE, "the listener has forgotten it")
    assert "was used, has expired or was withdrawn" in refused(osaka, code)
    assert paris.knows() == {"tokyo": "invited"}


def test_a_code_is_used_up_over_a_kill_and_a_restart(
    paris: ServedSite, tokyo: MeshSite, tmp_path: Path
) -> None:
    code = paris.invite()
    join(tokyo, code)
    paris.node.kill()
    paris.start()
    assert "was used" in refused(MeshSite(tmp_path, "osaka"), code)
    assert paris.knows() == {"tokyo": "invited"}


def test_who_lost_the_answer_asks_again_with_the_same_code(
    paris: ServedSite, tokyo: MeshSite
) -> None:
    code = paris.invite()
    join(tokyo, code)  # the first answer is lost, to tokyo's mind
    assert join(tokyo, code) == Joining(paris.me, [])
    assert paris.knows() == {"tokyo": "invited"}


def test_an_expired_code_is_refused_by_the_inviters_own_clock(
    paris: ServedSite, tokyo: MeshSite
) -> None:
    found = paris.run("invite", "--expires", "1s")
    until_s = parse_code(found["code"]).until_s
    wait_until(lambda: SystemClock().wall_s() > until_s + 1, "it has expired")
    assert "has expired" in refused(tokyo, found["code"])
    assert paris.knows() == {}


def test_an_invitation_has_no_right_but_to_join(paris: ServedSite) -> None:
    code = known_to(paris, paris.invite())
    with connect(paris, shown_for(code)) as client:
        assert outcome(lambda: client.write(b"x")) is grpc.StatusCode.PERMISSION_DENIED
        assert outcome(lambda: client.find_missing([])) is grpc.StatusCode.PERMISSION_DENIED
        mesh = mesh_pb2_grpc.MeshStub(client.channel)
        introduction = mesh_pb2.IntroduceRequest.FromString(encode_introduction([]))
        told = outcome(lambda: mesh.Introduce(introduction))
        assert told is grpc.StatusCode.PERMISSION_DENIED
    assert paris.folder.is_invitation(parse_code(code).pair().fingerprint)


@pytest.mark.parametrize("shown", ["nothing", "a stranger's", "the code's with another secret"])
def test_whoever_lacks_the_code_gets_no_further_than_the_handshake(
    paris: ServedSite, tmp_path: Path, shown: str
) -> None:
    code = known_to(paris, paris.invite())
    certificates = Certificates()
    if shown == "a stranger's":
        files = self_signed(tmp_path, "stranger")
        certificates = Certificates(
            key=files.key.read_bytes(), chain=files.certificate.read_bytes()
        )
    elif shown != "nothing":
        certificates = shown_for(parse_code(code)._replace(secret=b"?" * 16).code())
    with connect(paris, certificates) as client:
        mesh = mesh_pb2_grpc.MeshStub(client.channel)
        assert outcome(lambda: mesh.Join(mesh_pb2.JoinRequest())) is grpc.StatusCode.UNAVAILABLE
    wait_until(lambda: "tls_handshake_failed" in paris.node.log, "it is logged")


def test_a_member_may_not_introduce_unless_it_invited_this_node(
    paris: ServedSite, tokyo: MeshSite, tmp_path: Path
) -> None:
    join(tokyo, paris.invite())
    wait_until(lambda: '"peers": 2' in paris.node.log, "the listener knows tokyo")
    osaka = MeshSite(tmp_path, "osaka")
    with connect(paris, own_of(tokyo)) as client:
        mesh = mesh_pb2_grpc.MeshStub(client.channel)
        introduction = mesh_pb2.IntroduceRequest.FromString(encode_introduction([osaka.me]))
        told = outcome(lambda: mesh.Introduce(introduction))
        assert told is grpc.StatusCode.PERMISSION_DENIED
        join_of_another = mesh_pb2.JoinRequest.FromString(encode_join(osaka.me))
        told = outcome(lambda: mesh.Join(join_of_another))
        assert told is grpc.StatusCode.PERMISSION_DENIED
        told = outcome(lambda: mesh.Preview(mesh_pb2.JoinRequest()))
        assert told is grpc.StatusCode.PERMISSION_DENIED
    assert paris.knows() == {"tokyo": "invited"}


class InBetween:
    """Somebody between the sites, who ends TLS with a certificate of its own.

    It answers at the inviter's address, and keeps what it is told, but has not the inviter's key.
    """

    def __init__(self, folder: Path) -> None:
        files = self_signed(folder, "between")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        context.set_alpn_protocols(["h2"])
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.heard = b""
        self.handshakes = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with self._listener, connection:
            connection.settimeout(30)
            try:
                with self._context.wrap_socket(connection, server_side=True) as tls:
                    self.handshakes += 1
                    self.heard = tls.recv(65536)
            except OSError:
                return  # the joiner has broken it off

    def end(self) -> None:
        self._thread.join(60)


def test_somebody_in_between_learns_and_changes_nothing(
    paris: ServedSite, tokyo: MeshSite, tmp_path: Path
) -> None:
    code = paris.invite()
    between = InBetween(tmp_path)
    paris.link.target = between.address
    assert "somebody in between" in refused(tokyo, code)
    between.end()
    assert (between.handshakes, between.heard) == (1, b"")
    assert (paris.knows(), tokyo.knows()) == ({}, {})
    paris.link.target = paris.node.addresses[-1]
    join(tokyo, code)  # the code is still good


def test_the_code_of_another_address_is_not_believed(paris: ServedSite, tokyo: MeshSite) -> None:
    real = parse_code(paris.invite())
    direct = real.inviter._replace(port=int(paris.node.addresses[-1].rpartition(":")[2]))
    with pytest.raises(ConfigError, match="says that its URL is"):
        asyncio.run(inviter(tokyo, real._replace(inviter=direct).code()).preview())


def test_an_inviter_that_is_away_is_no_reason_to_ask_for_another_code(
    paris: ServedSite, tokyo: MeshSite
) -> None:
    code = paris.invite()
    paris.link.set(Mode.CUT)
    assert "127.0.0.1" in refused(tokyo, code)
    paris.link.set(Mode.OPEN)
    assert join(tokyo, code).inviter == paris.me
