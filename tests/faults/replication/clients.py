"""Who uses a mesh during a round: at each node some who write what only they name, one who writes
names that others write as well, and one who reads what that node has acknowledged.

What nodes acknowledge goes into journals; what they answer wrongly is told at the end of the round.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc

from federation.core.digest import Digest, digest_of
from tests.faults.replication.mesh import Mesh
from tests.faults.storage.load import Load
from tests.support.oracle import Oracle
from tests.support.process_client import Client, code_of

SHARED_NAMES = 20
_RECENT_BLOBS = 500
_LARGE_BYTES = 2**20

_Codes = frozenset[grpc.StatusCode]


class Journals:
    """What the nodes of a mesh acknowledged: an oracle a node, and the names that all write."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.of = {name: Oracle(folder / f"{name}.jsonl") for name in names}
        self._lock = threading.Lock()
        self._sent: dict[str, set[Digest]] = {}
        self._acknowledged: set[str] = set()
        self.shared_writes = 0

    def close(self) -> None:
        """Close the files."""
        for oracle in self.of.values():
            oracle.__exit__()

    @property
    def blobs(self) -> int:
        """How many blobs were acknowledged."""
        return sum(len(oracle.blobs) for oracle in self.of.values())

    @property
    def entries(self) -> int:
        """How many entries were acknowledged under names of their own."""
        return sum(len(oracle.actions) + len(oracle.assets) for oracle in self.of.values())

    def sends(self, uri: str, digest: Digest) -> None:
        """Note a value that a shared name may have from now on."""
        with self._lock:
            self._sent.setdefault(uri, set()).add(digest)

    def shared_acknowledged(self, uri: str) -> None:
        """Note that a shared name has a value from now on."""
        with self._lock:
            self._acknowledged.add(uri)
            self.shared_writes += 1

    def check_shared(self, client: Client) -> None:
        """Ask a node for all shared names. Raises AssertionError: no value, or one nobody sent."""
        for uri, sent in self._sent.items():
            found = client.fetch_blob(uri)
            assert found is not None or uri not in self._acknowledged, f"{uri} is lost"
            assert found is None or found in sent, f"{uri} has a value that nobody sent: {found}"


class Crowd:
    """The clients of one round at one node."""

    def __init__(
        self,
        address: str,
        journals: Journals,
        name: str,
        seed: str,
        pause_s: float,
        refusals: _Codes,
    ) -> None:
        """Describe them.

        Args:
            address: the node's.
            journals: hear of all that is sent and acknowledged.
            name: the node's.
            seed: makes the data; no two seeds make the same.
            pause_s: how long each waits between two calls.
            refusals: what the round's faults may make the node answer.
        """
        self.read: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._journals = journals
        self._oracle = journals.of[name]
        self._address = address
        self._pause_s = max(pause_s, 0.01)
        self._rng = random.Random(f"{seed}:others")
        self._stop = threading.Event()
        self._load = Load(
            address,
            self._oracle,
            seed,
            workers=1,
            refusals=refusals,
            large_bytes=_LARGE_BYTES,
            pause_s=pause_s,
        )
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._share, self._look)
        ]

    def start(self) -> Crowd:
        """Begin."""
        self._load.start()
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._load.stop()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs in a call that has a deadline"

    @property
    def ended(self) -> list[str]:
        """What was heard as the node's end."""
        return self._load.done.ended

    def check(self) -> None:
        """Raise AssertionError when they were answered wrongly."""
        wrong = [*self.wrong, *self._load.done.faults]
        assert not wrong, f"{self._address}: {wrong[:5]}"

    def _share(self) -> None:
        """Write names that others write, too."""
        with Client(self._address) as client:
            while not self._stop.wait(self._pause_s):
                data = self._rng.randbytes(100)
                digest = digest_of(data)
                uri = f"urn:example:shared:{self._rng.randrange(SHARED_NAMES)}"
                try:
                    if client.batch_update([data]) != [grpc.StatusCode.OK]:
                        continue
                    self._journals.sends(uri, digest)
                    client.push_blob(uri, digest)
                except grpc.RpcError:
                    continue  # its node is broken: Load judges how
                self._journals.shared_acknowledged(uri)

    def _look(self) -> None:
        """Read what this node acknowledged; count the answers, note wrong ones."""
        rng = random.Random(self._address)
        with Client(self._address) as client:
            while not self._stop.wait(self._pause_s):
                recent = self._oracle.recent(_RECENT_BLOBS)
                if not recent:
                    continue
                digest = rng.choice(recent)
                try:
                    data = client.read(digest)
                except grpc.RpcError as error:
                    self.read[code_of(error).name] += 1
                    continue
                self.read["OK"] += 1
                if digest_of(data) != digest:
                    self.wrong.append(f"{digest}: read as {len(data)} wrong bytes")


@contextmanager
def using(
    mesh: Mesh, journals: Journals, seed: str, pause_s: float, refusals: Mapping[str, _Codes]
) -> Iterator[dict[str, Crowd]]:
    """Have a crowd at each node; yields them by the node's name."""
    crowds = {
        name: Crowd(node.address, journals, name, f"{seed}:{name}", pause_s, refusals[name]).start()
        for name, node in mesh.nodes.items()
    }
    try:
        yield crowds
    finally:
        for crowd in crowds.values():
            crowd.stop()
    for crowd in crowds.values():
        crowd.check()
