"""Declares metrics: name, text, labels, and how the values of several workers are merged.

The parent of several workers merges by this, so a new metric needs its declaration only. Counters
and histograms are added up; for gauges there is no common rule, so each declares its own.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, overload

from federation.observability.families import Family, Kind
from federation.observability.series import Counter, Gauge, Histogram, Labelled, Series

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

S = TypeVar("S", bound=Series)


class Merge(enum.Enum):
    """How the values of a node's workers become one."""

    SUM = "sum"  # each has its own
    SAME = "same"  # all see the same thing; while they differ for a moment, the largest
    LEAST = "least"  # the one that is worst off


_PROCESS = {
    "process_virtual_memory_bytes": Merge.SUM,
    "process_resident_memory_bytes": Merge.SUM,
    # The oldest worker's: the time since then is that of the node.
    "process_start_time_seconds": Merge.LEAST,
    "process_open_fds": Merge.SUM,
    # The first worker without a descriptor refuses its callers.
    "process_max_fds": Merge.LEAST,
}


class MetricDeclarations:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._gauges: dict[str, Merge] = {}
        self._metrics: dict[str, tuple[Kind, str, Series | Labelled[Any]]] = {}
        self._collectors: list[Callable[[], Iterable[Family]]] = []

    def __repr__(self) -> str:
        return f"<MetricDeclarations, {len(self._gauges)} gauges>"

    @property
    def gauges(self) -> Mapping[str, Merge]:
        """How each gauge is merged, by name; counters and histograms are added up."""
        return self._gauges

    @overload
    def counter(self, name: str, text: str) -> Counter: ...
    @overload
    def counter(self, name: str, text: str, labels: Sequence[str]) -> Labelled[Counter]: ...
    def counter(
        self, name: str, text: str, labels: Sequence[str] = ()
    ) -> Counter | Labelled[Counter]:
        """Declare what only grows; name ends in _total."""
        # The text format adds _total to the name of the family again.
        return self._declare(name.removesuffix("_total"), "counter", text, labels, Counter)

    @overload
    def gauge(self, name: str, merge: Merge, text: str) -> Gauge: ...
    @overload
    def gauge(
        self, name: str, merge: Merge, text: str, labels: Sequence[str]
    ) -> Labelled[Gauge]: ...
    def gauge(
        self, name: str, merge: Merge, text: str, labels: Sequence[str] = ()
    ) -> Gauge | Labelled[Gauge]:
        """Declare what goes up and down."""
        self.collected_gauge(name, merge)
        return self._declare(name, "gauge", text, labels, Gauge)

    def process(self) -> None:
        """Declare the process_* metrics of the system's view of this process; see exposition()."""
        for name, merge in _PROCESS.items():
            self.collected_gauge(name, merge)

    def collected_gauge(self, name: str, merge: Merge) -> None:
        """Declare a gauge whose samples a collector makes when it is asked for them."""
        self._gauges[name] = merge

    @overload
    def histogram(self, name: str, text: str, *, buckets: Sequence[float] = ...) -> Histogram: ...
    @overload
    def histogram(
        self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float] = ...
    ) -> Labelled[Histogram]: ...
    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS
    ) -> Histogram | Labelled[Histogram]:
        """Declare a distribution, of seconds unless other buckets are given."""
        return self._declare(name, "histogram", text, labels, partial(Histogram, buckets))

    def collect_from(self, collector: Callable[[], Iterable[Family]]) -> None:
        """Show what this collector makes, too."""
        self._collectors.append(collector)

    def families(self) -> Iterator[Family]:
        """Yield every metric as it is now."""
        for name, (kind, text, metric) in self._metrics.items():
            family = Family(name, kind, text)
            each = metric.each() if isinstance(metric, Labelled) else [((), metric)]
            for labels, series in each:
                for suffix, all_labels, value in series.samples(labels):
                    family.values[name + suffix, all_labels] = value
            yield family
        for collector in self._collectors:
            yield from collector()

    def _declare(
        self, name: str, kind: Kind, text: str, labels: Sequence[str], make: Callable[[], S]
    ) -> S | Labelled[S]:
        # Two metrics of one name would be one series with the sum of both.
        assert name not in self._metrics
        metric = Labelled(labels, make) if labels else make()
        self._metrics[name] = kind, text, metric
        return metric
