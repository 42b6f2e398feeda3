"""Several nodes that are peers of one another, each a process of its own, and what they hold.

    with Mesh(tmp_path, MUTUAL) as mesh:
        mesh.start()
        with mesh.client("a") as client:
            client.write(b"...")
        mesh.wait_until_equal()

What a node holds is read from its catalogue and its files, not from what it says of itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import apsw

from federation.storage.catalogue.schema import connect
from tests.faults.replication.link import Link
from tests.support.polling import wait_until
from tests.support.process import Node, Settings, merged
from tests.support.process_client import Client

Edge = tuple[str, str]  # who sends, to whom
EntryName = tuple[int, str, bytes]  # kind, instance, name

MUTUAL: Sequence[Edge] = (("a", "b"), ("b", "a"))
CHAIN: Sequence[Edge] = (("a", "b"), ("b", "c"))
RING: Sequence[Edge] = (("a", "b"), ("b", "c"), ("c", "a"))


def full(names: Iterable[str]) -> list[Edge]:
    """Everybody sends to everybody."""
    names = list(names)
    return [(one, other) for one in names for other in names if one != other]


class Held(NamedTuple):
    """What a data directory makes visible."""

    blobs: frozenset[tuple[bytes, int]]  # key, size
    entries: Mapping[EntryName, bytes]  # what each name has as its value


class Mesh:
    """Nodes by name, and a link for each edge. Everything ends with it."""

    def __init__(
        self,
        folder: Path,
        edges: Sequence[Edge],
        *,
        peer: Settings | None = None,
        bytes_s: int = 0,
        **settings: Any,
    ) -> None:
        """Describe the mesh; peer has further keys of each peer, settings those of each node.

        bytes_s: what goes over each link, each way; 0: no limit.
        """
        self.folder = folder
        self.edges = list(edges)
        self.links: dict[Edge, Link] = {}
        self.nodes: dict[str, Node] = {}
        self._peer = peer or {}
        self._bytes_s = bytes_s
        self._settings = {key.replace("_", "-"): value for key, value in settings.items()}
        self._stack = ExitStack()

    def __enter__(self) -> Mesh:
        for edge in self.edges:
            self.links[edge] = self._stack.enter_context(Link(bytes_s=self._bytes_s))
        for name in dict.fromkeys(name for edge in self.edges for name in edge):
            peers = [self._peer_of(edge) for edge in self.edges if edge[0] == name]
            base: Settings = {
                "node-name": name,
                "peers": peers,
                "storage": {"scrub": {"rate": 0}},
            }
            node = Node(self.folder / name, merged(base, self._settings), name=name)
            self.nodes[name] = self._stack.enter_context(node)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            for node in self.nodes.values():
                if kind is None:
                    assert "Traceback" not in node.log, node.log_tail

    def start(self, *names: str, within_s: float = 60) -> None:
        """Start these nodes, or all; the links to them lead to where they are now."""
        for name in names or self.nodes:
            self.nodes[name].launch()
        for name in names or self.nodes:
            node = self.nodes[name].wait_ready(within_s)
            for edge, link in self.links.items():
                if edge[1] == name:
                    link.target = node.address

    def client(self, name: str, **options: Any) -> Client:
        """Return a client of one node."""
        return Client(self.nodes[name].address, **options)

    def status(self, name: str) -> dict[str, Any]:
        """What a node says of itself."""
        code, text = self.nodes[name].http_get("/")
        assert code == 200, text
        facts: dict[str, Any] = json.loads(text)
        return facts

    def peer(self, sender: str, receiver: str) -> dict[str, Any]:
        """What a node says of one of its peers."""
        facts: dict[str, Any] = next(
            each for each in self.status(sender)["peers"] if each["name"] == receiver
        )
        return facts

    def held(self, name: str) -> Held:
        """What a node holds now."""
        return held_in(self.nodes[name].data_dir)

    def differences(self, names: Iterable[str] | None = None) -> list[str]:
        """Say where these nodes (or all) hold different things."""
        names = list(names or self.nodes)
        found = {name: self.held(name) for name in names}
        first = found[names[0]]
        return [
            f"{names[0]} and {name}: {line}"
            for name in names[1:]
            for line in _differences(first, found[name])
        ]

    def wait_until_equal(
        self, names: Iterable[str] | None = None, within_s: float = 60, blobs: int = 0
    ) -> None:
        """Wait until these nodes (or all) hold the same, and each at least so many blobs."""
        names = list(names or self.nodes)
        told: list[str] = []

        def equal() -> bool:
            told[:] = self.differences(names)
            few = len(self.held(names[0]).blobs)
            if few < blobs:
                told.append(f"{names[0]} holds {few} blobs of {blobs}")
            return not told

        try:
            wait_until(equal, "equal contents", timeout_s=within_s, every_s=0.1)
        except AssertionError as error:
            logs = "".join(self.nodes[name].log_tail for name in names)
            shown = "\n".join(told[:20])
            raise AssertionError(f"{error}: {len(told)} differences\n{shown}\n{logs}") from None

    def wait_until_idle(self, within_s: float = 60) -> None:
        """Wait until every running node says that its peers have all it has to send."""
        told: list[str] = []

        def idle() -> bool:
            told[:] = [
                f"{one} -> {other}: {facts.get('state')}, lacks {facts.get('lag-objects')}"
                for one, other in self.edges
                if self.nodes[one].running and not is_idle(facts := self._peer_now(one, other))
            ]
            return not told

        try:
            wait_until(idle, "nothing left to send", timeout_s=within_s, every_s=0.05)
        except AssertionError as error:
            logs = "".join(node.log_tail for node in self.nodes.values())
            raise AssertionError(f"{error}: {told}\n{logs}") from None

    def sent(self, *edge: str) -> int:
        """How many objects the first has sent to the second, and found there, since its start."""
        return int(self.peer(*edge)["sent-objects"])

    def received_bytes(self, name: str) -> float:
        """How many bytes of blobs anybody has sent to a node since it was started."""
        return self.nodes[name].metrics().value("federation_blob_bytes_total", direction="in")

    def head(self, name: str) -> int:
        """How many rows a node's change log has ever had."""
        return head_of(self.nodes[name].data_dir)

    def carried_bytes(self) -> int:
        """How many bytes went over all links, towards those who receive."""
        return sum(link.carried[0] for link in self.links.values())

    def _peer_now(self, sender: str, receiver: str) -> dict[str, Any]:
        shown = self.status(sender)["peers"]
        return next((each for each in shown if each["name"] == receiver), {})

    def _peer_of(self, edge: Edge) -> dict[str, Any]:
        base: Settings = {
            "name": edge[1],
            "url": f"grpc://{self.links[edge].address}",
            "connection-config": {
                "stall": "3s",
                "request-timeout": "5s",
                "retry-limit": 1,
                "retry-delay": 20,
            },
        }
        return merged(base, self._peer)


def only_peer(node: Node) -> dict[str, Any]:
    """What a node says of the one peer that it has; empty before it knows of it."""
    code, text = node.http_get("/")
    assert code == 200, text
    shown: list[dict[str, Any]] = json.loads(text)["peers"]
    return next(iter(shown), {})


def is_idle(facts: Mapping[str, Any]) -> bool:
    """Whether a peer is followed and has everything, from what `status` says of it."""
    return facts.get("state") == "following" and facts["lag-objects"] == 0


def head_of(data_dir: Path) -> int:
    """Return the newest row's number of a change log, beside whoever uses it."""
    connection = connect(data_dir / "catalogue.sqlite", read_only=True)
    try:
        ((seq,),) = connection.execute("SELECT seq FROM totals")
    finally:
        connection.close()
    return int(seq)


def held_in(data_dir: Path) -> Held:
    """Read a catalogue beside whoever uses it."""
    connection = connect(data_dir / "catalogue.sqlite", read_only=True)
    try:
        blobs = frozenset(
            (bytes(key), int(size))
            for key, size in connection.execute("SELECT key, size FROM blob WHERE marked = 0")
        )
        entries = {
            (int(kind), str(instance), bytes(name)): bytes(value)
            for kind, instance, name, value in connection.execute(
                "SELECT kind, instance, name, value FROM entry"
            )
        }
    finally:
        connection.close()
    return Held(blobs, entries)


def wrong_bytes_in(data_dir: Path) -> list[str]:
    """Hash every blob that a catalogue shows (SHA-256 ones) and return those that are not right."""
    wrong = []
    connection: apsw.Connection = connect(data_dir / "catalogue.sqlite", read_only=True)
    try:
        for key, size, inline, data in connection.execute(
            "SELECT key, size, inline, data FROM blob "
            "LEFT JOIN small ON inline AND small.seq = blob.seq WHERE marked = 0"
        ):
            name = f"{bytes(key[1:]).hex()}-{size}"
            content = data if inline else (data_dir / "blobs" / name[:2] / name).read_bytes()
            if hashlib.sha256(content).digest() != key[1:] or len(content) != size:
                wrong.append(name)
    finally:
        connection.close()
    return wrong


def _differences(one: Held, other: Held) -> Iterable[str]:
    for key, size in one.blobs ^ other.blobs:
        where = "the first" if (key, size) in one.blobs else "the second"
        yield f"blob {key[1:].hex()}/{size} is only in {where}"
    for entry in one.entries.keys() | other.entries.keys():
        left, right = one.entries.get(entry), other.entries.get(entry)
        if left != right:
            kind, instance, name = entry
            what = "differs" if left and right else f"is only in {'one' if left else 'the other'}"
            yield f"entry {kind} {instance!r} {name.hex()} {what}"
