"""The metrics of several workers as those of one node.

Counts and times are added up, and those of a worker that has ended stay in the sum: a sum that
fell would look like a restart, and to Prometheus like as many new calls as it still shows. What
gauges amount to is part of their declaration (observability/declared.py).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from federation.observability.declared import Merge

_GROWS = ("counter", "histogram")
_JOINS: Mapping[Merge, Callable[[float, float], float]] = {
    Merge.SUM: operator.add,
    Merge.SAME: max,
    Merge.LEAST: min,
}

Key = tuple[str, tuple[tuple[str, str], ...]]  # a sample's name and labels


@dataclass(slots=True)
class Family:
    """One metric with the value of each of its series."""

    name: str
    kind: str
    text: str
    values: dict[Key, float] = field(default_factory=dict)


Families = Mapping[str, Family]


def parse(exposition: str) -> dict[str, Family]:
    """Read what a worker's /metrics answered. Raises ValueError."""
    found = {}
    for metric in text_string_to_metric_families(exposition):
        values = {_key(sample): sample.value for sample in metric.samples}
        found[metric.name] = Family(metric.name, metric.type, metric.documentation, values)
    return found


def _key(sample: Sample) -> Key:
    return sample.name, tuple(sample.labels.items())


def only_growing(families: Families) -> dict[str, Family]:
    """Return the families whose values remain valid after a process has ended."""
    return {name: each for name, each in families.items() if each.kind in _GROWS}


def merged(parts: Iterable[Families], gauges: Mapping[str, Merge]) -> dict[str, Family]:
    """Return the families of several processes as one set; gauges: how each is merged, by name."""
    whole: dict[str, Family] = {}
    for part in parts:
        for name, each in part.items():
            into = whole.get(name)
            if into is None:
                into = whole[name] = Family(name, each.kind, each.text)
            join = _join_of(each, gauges)
            for key, value in each.values.items():
                before = into.values.get(key)
                into.values[key] = value if before is None else join(before, value)
    return whole


def _join_of(family: Family, gauges: Mapping[str, Merge]) -> Callable[[float, float], float]:
    if family.kind in _GROWS:
        return operator.add
    return _JOINS[gauges.get(family.name, Merge.SUM)]


def as_metrics(families: Families) -> list[Metric]:
    """Return families as prometheus_client writes them out."""
    found = []
    for each in families.values():
        metric = Metric(each.name, each.text, each.kind)
        for (name, labels), value in each.values.items():
            metric.add_sample(name, dict(labels), value)
        found.append(metric)
    return found
