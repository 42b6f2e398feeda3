"""Prometheus' text format, which prometheus_client writes and reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from federation.observability.families import Family, Key, Kind


def exposition(families: Iterable[Family], *, with_process: bool = False) -> bytes:
    """Return these families as text.

    with_process: beside them process_*, what the system knows of this process.
    """
    # A new one for each scrape: values are taken once, and nothing is registered for good.
    registry = CollectorRegistry()
    if with_process:
        ProcessCollector(registry=registry)
    registry.register(_Collected(families))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def describe(self) -> Iterable[Metric]:
        """See Collector: the registry need not look for names that occur twice."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        for each in self._families:
            metric = Metric(each.name, each.text, each.kind)
            for (name, labels), value in each.values.items():
                metric.add_sample(name, dict(labels), value)
            yield metric


def parse(text: str) -> dict[str, Family]:
    """Read what a process of this node answered to a scrape. Raises ValueError."""
    found = {}
    for metric in text_string_to_metric_families(text):
        # Samples with a time or an exemplar are none of ours.
        values = {_key(sample): sample.value for sample in metric.samples}
        kind = cast("Kind", metric.type)
        found[metric.name] = Family(metric.name, kind, metric.documentation, values)
    return found


def _key(sample: Sample) -> Key:
    return sample.name, tuple(sample.labels.items())
