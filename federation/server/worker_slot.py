"""What a process knows of being one of several that serve the same ports."""

from __future__ import annotations

from typing import Any, NamedTuple


class WorkerSlot(NamedTuple):
    """This process's place; without arguments: it serves alone."""

    number: int = 1
    of: int = 1
    ports: tuple[int, ...] = ()  # the real port of each listener, which the parent keeps taken
    http: str | None = None  # where the parent answers for all of them
    parent: int = 0  # its process

    @property
    def alone(self) -> bool:
        """Whether no other process answers on these ports."""
        return self.of == 1

    def announced(self) -> dict[str, Any]:
        """Return what this process publishes about its slot."""
        return {
            "worker": self.number,
            "workers": self.of,
            "parent": self.parent,
            "http-of-all": self.http,
        }

    def port(self, listener: int, configured: int) -> int:
        """Return the port to bind for the listener at this place of the configuration."""
        return configured if self.alone else self.ports[listener]

    def part(self, total: int) -> int:
        """Return this process's part of a limit for all of them."""
        return total // self.of
