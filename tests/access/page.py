"""What the old server's page has its reader type, with other host names, ports and folders."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.support.certificates import Files
from tests.support.process import ARTIFACT_SERVER, Node
from tests.support.process_client import Client

_MAKE = (
    "openssl req -new -newkey rsa:4096 -x509 -sha256 -days 3650 -nodes -batch"
    ' -subj "/CN={cn}" -out {name}.crt -keyout {name}.key'
)
PULL = "--port 0 --server-key server.key --server-cert server.crt"
PUSH = f"{PULL} --client-certs authorized.crt --enable-push"


def make(folder: Path, cn: str, name: str) -> Files:
    """Make a key pair with the page's command."""
    command = shlex.split(_MAKE.format(cn=cn, name=name))
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return Files(folder / f"{name}.crt", folder / f"{name}.key")


def append(certificate: Path, to: Path) -> None:
    """Do `cat client.crt >> authorized.crt`."""
    with to.open("ab") as file:
        file.write(certificate.read_bytes())


def server(data_dir: Path, line: str, name: str) -> Node:
    """Describe `bst-artifact-server` with these options, its file names in data_dir's folder."""
    folder = data_dir.parent
    words = [str(folder / w) if w.endswith((".key", ".crt")) else w for w in line.split()]
    return Node(data_dir, args=[*words, str(data_dir)], program=ARTIFACT_SERVER, name=name)


def local(node: Node) -> str:
    """Return the address under the name that the certificate has."""
    return f"localhost:{node.address.rpartition(':')[2]}"


@contextmanager
def connect(node: Node, trusted: Path, me: Files | None = None) -> Iterator[Client]:
    """Connect as somebody who trusts the server's certificate and shows this one, or none."""
    key, chain = (me.key.read_bytes(), me.certificate.read_bytes()) if me else (None, None)
    credentials = grpc.ssl_channel_credentials(trusted.read_bytes(), key, chain)
    with Client(local(node), credentials=credentials) as client:
        yield client
