"""What a row is: work bound to one server, and the line of the table that it fills."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.link import Link
from benchmarks.process import Server

SERVERS = ("federation", "federation-http2", "casd", "buildgrid")
# Of rows where several connections come at once.
WITH_WORKERS = (*SERVERS, "federation-2", "federation-http2-2")
_SETTLE_S = 0.05  # what a server does just after its answer belongs to the call


@dataclass(frozen=True)
class Sample:
    """What one server did in one round."""

    values: list[float]  # seconds of each call, or bytes
    server_cpu_s: float
    client_cpu_s: float


class Row(ABC):
    """One kind of work, bound to one server. Subclasses say what is timed."""

    warms_up: ClassVar[bool] = True  # False: each round starts the server afresh

    def __init__(self, server: Server) -> None:
        self.server = server

    @abstractmethod
    def prepare(self) -> None:
        """Start the server, store what the row needs, and prove that it answers rightly."""

    @abstractmethod
    def round(self, seconds: float) -> Sample:
        """Work for about this long, at least once."""

    def close(self) -> None:
        """Stop the server."""
        self.server.stop()


class CallRow(Row):
    """A row whose value is the time of one call on one connection."""

    link: Link

    def prepare(self) -> None:
        """See Row."""
        self.server.start()
        self.link = Link(self.server.address)
        self.set_up()

    @abstractmethod
    def set_up(self) -> None:
        """Store blobs, serialise requests, check the answers."""

    @abstractmethod
    def calls(self) -> Iterator[Callable[[], object]]:
        """Yield calls without end; what happens between them is not timed."""

    def round(self, seconds: float) -> Sample:
        """See Row."""
        values: list[float] = []
        client_cpu_s = 0.0
        before_s = self.server.cpu_s()
        for call in self.calls():
            cpu_s, began = time.process_time(), time.perf_counter()
            call()
            values.append(time.perf_counter() - began)
            client_cpu_s += time.process_time() - cpu_s
            if sum(values) >= seconds:
                break
        time.sleep(_SETTLE_S)
        return Sample(values, self.server.cpu_s() - before_s, client_cpu_s)

    def close(self) -> None:
        """See Row."""
        if hasattr(self, "link"):
            self.link.close()
        super().close()


@dataclass(frozen=True)
class RowSpec:
    """A row of the table: what is done, in which unit it is told, and what it should reach."""

    name: str
    title: str
    make: Callable[[Server], Row]
    items: float = 1.0  # per call, for the rate
    item: str = "call"  # what is counted; "B" for bytes
    memory: bool = False  # values are bytes over idle, not seconds
    stores: bool = False  # whether durability matters here
    budget: str = ""
    servers: Sequence[str] = SERVERS

    @property
    def plural(self) -> str:
        """The name of several items."""
        return "directories" if self.item == "directory" else f"{self.item}s"
