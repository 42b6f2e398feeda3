"""Metrics with all their values at one time, between what counts them and what writes them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Key = tuple[str, tuple[tuple[str, str], ...]]  # a sample's name and labels


@dataclass(slots=True)
class Family:
    """One metric with the value of each of its samples.

    name: without the _total of counters, as Prometheus' format has it.
    """

    name: str
    kind: Kind
    text: str
    values: dict[Key, float] = field(default_factory=dict)

    def add(self, value: float, *, suffix: str = "", labels: Mapping[str, str]) -> None:
        """Add a sample; suffix: what follows the name of the metric."""
        self.values[self.name + suffix, tuple(labels.items())] = value


Families = Mapping[str, Family]  # by name
