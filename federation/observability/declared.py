"""Declares metrics: name, text, labels, and how the values of several workers are merged.

The parent of several workers merges by this, so a new metric needs its declaration only. Counters
and histograms are added up; for gauges there is no common rule, so each declares its own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

# When each counter began is one more series for each, and process_start_time_seconds says it.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Merge(enum.Enum):
    """How the values of a node's workers become one."""

    SUM = "sum"  # each has its own
    SAME = "same"  # all see the same thing; while they differ for a moment, the largest
    LEAST = "least"  # the one that is worst off


_PROCESS = {
    "process_virtual_memory_bytes": Merge.SUM,
    "process_resident_memory_bytes": Merge.SUM,
    "process_start_time_seconds": Merge.LEAST,
    "process_open_fds": Merge.SUM,
    "process_max_fds": Merge.LEAST,
}


class MetricDeclarations:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauges: dict[str, Merge] = {}

    def __repr__(self) -> str:
        return f"<MetricDeclarations, {len(self._gauges)} gauges>"

    @property
    def gauges(self) -> Mapping[str, Merge]:
        """How each gauge is merged, by name; counters and histograms are added up."""
        return self._gauges

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """Declare what only grows; name ends in _total."""
        return Counter(name, text, labels, registry=self.registry)

    def gauge(self, name: str, merge: Merge, text: str, labels: Sequence[str] = ()) -> Gauge:
        """Declare what goes up and down."""
        self.collected_gauge(name, merge)
        return Gauge(name, text, labels, registry=self.registry)

    def process(self) -> None:
        """Declare the process_* metrics of the operating system's view of this process."""
        ProcessCollector(registry=self.registry)
        for name, merge in _PROCESS.items():
            self.collected_gauge(name, merge)

    def collected_gauge(self, name: str, merge: Merge) -> None:
        """Declare a gauge whose series a collector makes when it is asked for them."""
        self._gauges[name] = merge

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        """Declare a distribution, of seconds unless other buckets are given."""
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
