"""The servers of one row: a node that is written to, its peer, and a node without any."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from benchmarks.process import Server
from benchmarks.servers import Casd, Node


class Sender(Node):
    """A node that sends what it receives to a peer; whatever else is the default."""

    name = "sender"
    peer = ""

    def settings(self) -> dict[str, object]:
        """See Node."""
        return {**super().settings(), "peers": [{"name": "peer", "url": f"http://{self.peer}"}]}


class Alone(Node):
    """A node with no peer."""

    name = "alone"


class NodePeer(Node):
    """A node that receives."""

    name = "federation"


RECEIVERS: dict[str, type[Server]] = {kind.name: kind for kind in (NodePeer, Casd)}


class Site:
    """A sender and its peer, running."""

    def __init__(self, home: Path, receiver: str) -> None:
        """receiver: key of RECEIVERS."""
        self.peer = RECEIVERS[receiver](home)
        self.sender = Sender(home)

    def start(self) -> None:
        """Start both; raises ServerFailedError."""
        self.peer.start()
        self.sender.peer = self.peer.address
        self.sender.start()

    def frozen(self, work: Callable[[], None]) -> None:
        """Do some work while the peer is stopped."""
        os.kill(self.peer.pid, signal.SIGSTOP)
        try:
            work()
        finally:
            os.kill(self.peer.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop those that run."""
        self.sender.stop()
        self.peer.stop()
