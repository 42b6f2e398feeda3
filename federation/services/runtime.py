"""What the calls of one listener share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from federation.access.access import Access
from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.memory_budget import MemoryBudget
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LimitHits
from federation.services.acknowledge import Acknowledge
from federation.services.bounds import SharedBounds
from federation.services.call_log import CallLog
from federation.services.instance_names import InstanceNames
from federation.services.quotas import CallerQuotas
from federation.services.running import RunningCalls
from federation.services.transport import Connections


@dataclass(slots=True)
class Runtime:
    """One for each listener, since rights differ. All listeners share the bounds."""

    metrics: Metrics
    limits: LimitsConfig
    clock: Clock
    access: Access
    budget: MemoryBudget
    connections: Connections
    acknowledge: Acknowledge | None = None  # None: writes are answered once they are durable here
    quotas: CallerQuotas | None = None  # None: no caller has a quota
    audit: bool = False
    heard_from: Callable[[str], None] | None = None  # called with the id of each peer that calls
    bounds: SharedBounds | None = None  # None: this listener's own
    log: CallLog = field(init=False)
    calls: RunningCalls = field(init=False)
    hits: LimitHits = field(init=False)
    names: InstanceNames = field(init=False)

    def __post_init__(self) -> None:
        bounds = self.bounds or SharedBounds.of(self.metrics, self.clock, self.budget)
        self.log = CallLog(self.metrics, self.clock)
        self.hits = bounds.hits
        self.names = InstanceNames(self.limits, self.hits)
        self.calls = RunningCalls(self.limits, self.clock, bounds, self.connections)
