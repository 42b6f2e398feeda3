"""Whether this node is ready for calls: one state for gRPC health, /readyz and systemd."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple


class Phase(enum.Enum):
    """Where the process is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class ReadinessVerdict(NamedTuple):
    """The answer: may calls come, and if something is wrong, what."""

    serving: bool
    reason: str  # not empty with serving=True: degraded


class Readiness:
    """Holds the last known state, so that asking costs nothing and waits for nothing."""

    def __init__(self, storage_health: Callable[[], tuple[bool, str]]) -> None:
        self._storage_health = storage_health
        self.phase = Phase.STARTING
        self._storage = (True, "")

    def __repr__(self) -> str:
        return f"<Readiness {self.phase.value} {self._storage}>"

    def refresh(self) -> ReadinessVerdict:
        """Ask storage (which answers from memory) and return the new verdict."""
        self._storage = self._storage_health()
        return self.verdict()

    def verdict(self) -> ReadinessVerdict:
        """Return the last known state."""
        if self.phase is not Phase.SERVING:
            return ReadinessVerdict(False, self.phase.value)
        return ReadinessVerdict(*self._storage)
