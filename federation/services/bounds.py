"""The limits that all listeners of a node share."""

from __future__ import annotations

from dataclasses import dataclass

from federation.core.admission import Admission
from federation.core.clock import Clock
from federation.core.memory_budget import MemoryBudget
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LimitHits


@dataclass(slots=True)
class SharedBounds:
    """The record of limits that were reached, and the admission of bytes in both directions."""

    hits: LimitHits
    incoming: Admission  # received, and neither durable nor dropped
    outgoing: Admission  # to be sent, and not taken by its reader yet

    @classmethod
    def of(
        cls, metrics: Metrics, clock: Clock, budget: MemoryBudget, hits: LimitHits | None = None
    ) -> SharedBounds:
        """Give each direction half of the budget; the rest is for reading and writing ahead."""

        def half() -> int:
            return budget.total_bytes // 2

        return cls(
            hits or LimitHits(metrics, clock),
            Admission(half, counted=budget.count),
            Admission(half, counted=budget.count),
        )
