"""The metrics of several workers as those of one node.

Counts and times are added up, and those of a worker that has ended stay in the sum: a sum that
fell would look like a restart, and to Prometheus like as many new calls as it still shows. What
gauges amount to is part of their declaration (observability/declared.py).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping

from federation.observability.declared import Merge
from federation.observability.families import Families, Family

_GROWS = ("counter", "histogram")
_JOINS: Mapping[Merge, Callable[[float, float], float]] = {
    Merge.SUM: operator.add,
    Merge.SAME: max,
    Merge.LEAST: min,
}


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
