"""Several clients at once: a thread and a connection each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from benchmarks.link import Link

CLIENTS = 8


class Crowd:
    """Calls that block, spread over threads; cheaper in Python than calls that call back."""

    def __init__(self, address: str, clients: int = CLIENTS) -> None:
        self.links = [Link(address) for _ in range(clients)]
        self._threads = ThreadPoolExecutor(clients)

    def run(self, work: Sequence[Callable[[], object]]) -> None:
        """Do one piece of work for each client, all at once; raises what any of them raises."""
        running = [self._threads.submit(piece) for piece in work]
        wait(running)
        for ended in running:
            ended.result()

    def close(self) -> None:
        """Close the connections and end the threads."""
        for link in self.links:
            link.close()
        self._threads.shutdown()
