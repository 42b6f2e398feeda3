"""What several processes count, as one.

Counts and times are added up, and those of a worker that has ended stay in the sum: a sum that
fell would look like a restart, and to Prometheus like as many new calls as it still shows. What
every process says of the storage that they share is said once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_SAME_IN_ALL = ("federation_stored_", "federation_quota_bytes", "federation_peer_")
_WORST = ("federation_upstream_up",)
_GROWS = ("counter", "histogram")

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
    """Return what still counts after a process has ended."""
    return {name: each for name, each in families.items() if each.kind in _GROWS}


def add_up(parts: Iterable[Families]) -> dict[str, Family]:
    """Return one set of families out of those of several processes."""
    whole: dict[str, Family] = {}
    for part in parts:
        for name, each in part.items():
            into = whole.get(name)
            if into is None:
                into = whole[name] = Family(name, each.kind, each.text)
            for key, value in each.values.items():
                into.values[key] = _join(each, into.values.get(key), value)
    return whole


def _join(family: Family, before: float | None, value: float) -> float:
    if before is None:
        return value
    if family.name.endswith("_created") or family.name.startswith(_WORST):
        return min(before, value)
    if family.name.startswith(_SAME_IN_ALL) and family.kind not in _GROWS:
        return max(before, value)
    return before + value


def as_metrics(families: Families) -> list[Metric]:
    """Return families as prometheus_client writes them out."""
    found = []
    for each in families.values():
        metric = Metric(each.name, each.text, each.kind)
        for (name, labels), value in each.values.items():
            metric.add_sample(name, dict(labels), value)
        found.append(metric)
    return found
