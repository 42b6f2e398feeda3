"""Secrets that are pushed into a mesh and purged while something is broken.

A secret is a blob and an asset that names it. A node that holds it is told to purge it, running or
not. From then on it may be nowhere, unless it was pushed again at that node: then it is everywhere.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from federation.core.digest import Digest, digest_of
from federation.storage.directory import DataDirectory
from tests.faults.replication.mesh import Mesh
from tests.support.polling import wait_until
from tests.support.process import Node, federation
from tests.support.process_client import Client

_GONE_WITHIN_S = 60.0


@dataclass
class _Secret:
    uri: str
    data: bytes
    is_everywhere: bool = False
    is_purged: bool = False

    @property
    def digest(self) -> Digest:
        return digest_of(self.data)


def _is_at(mesh: Mesh, name: str, secret: _Secret) -> bool:
    """Whether a node holds both parts of a secret, as far as that is known."""
    if secret.is_everywhere or not mesh.nodes[name].running:
        return secret.is_everywhere
    try:
        with mesh.client(name) as client:
            return client.fetch_blob(secret.uri) == secret.digest
    except grpc.RpcError:
        return False


class Secrets:
    """All of one mesh."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._secrets: list[_Secret] = []
        self._unsure: set[bytes] = set()  # data of pushes that ended without an answer
        self._names = itertools.count()
        self.purged = 0

    def push(self, mesh: Mesh) -> None:
        """Push one at any node; one that is refused is forgotten."""
        data = self._rng.randbytes(self._rng.choice([100, 40_000]))
        self._push(mesh, self._rng.choice(list(mesh.nodes)), self._new_uri(), data)

    def _new_uri(self) -> str:
        return f"urn:example:secret:{next(self._names)}"

    def _push(self, mesh: Mesh, name: str, uri: str, data: bytes) -> None:
        """Push data under a name; what was known of the name before counts no more."""
        self._secrets = [each for each in self._secrets if each.uri != uri]
        secret = _Secret(uri, data)
        try:
            with mesh.client(name) as client:
                if client.batch_update([data]) == [grpc.StatusCode.OK]:
                    client.push_blob(secret.uri, secret.digest)
                    self._secrets.append(secret)
        except grpc.RpcError:
            self._unsure.add(data)

    def purge(self, mesh: Mesh) -> None:
        """Purge one at any node, and perhaps push it again there, under its name or another."""
        name = self._rng.choice(list(mesh.nodes))
        held = [each for each in self._secrets if not each.is_purged and _is_at(mesh, name, each)]
        if not held:
            return
        secret = self._rng.choice(held)
        data_dir = mesh.nodes[name].data_dir
        if not DataDirectory(data_dir).catalogue.exists():
            return  # its disk is hidden
        secret.is_purged = True
        for target in (str(secret.digest), secret.uri):
            done = federation("purge", target, "--data-dir", str(data_dir), "--yes", "--json")
            assert done.returncode == 0, f"{secret.uri} at {name}: {done.stderr}"
            assert json.loads(done.stdout)["count"] == 1, done.stdout
        self.purged += 1
        if mesh.nodes[name].running and self._rng.random() < 0.3:
            uri = secret.uri if self._rng.random() < 0.5 else self._new_uri()
            self._push(mesh, name, uri, secret.data)

    def check(self, clients: Mapping[Node, Client]) -> None:
        """Raise AssertionError where a node has what was purged, or lacks what was not.

        To be called when all nodes hold the same, which they then do.
        """
        again = {each.data for each in self._secrets if not each.is_purged}
        for node, client in clients.items():
            for each in self._secrets:
                is_held, where = each.data in again, f"{each.uri} at {node!r}"
                if is_held or each.data not in self._unsure:
                    wait_until(
                        lambda: (not client.find_missing([each.digest])) is is_held,  # noqa: B023
                        f"{where} {'is held' if is_held else 'is gone'}",
                        timeout_s=_GONE_WITHIN_S,
                    )
                found = client.fetch_blob(each.uri)
                assert (found is not None) is not each.is_purged, f"{where}: {found}"
        for each in self._secrets:
            each.is_everywhere = True
