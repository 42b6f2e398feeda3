"""What the dashboards show.

In queries, `@` stands for the labels that select the chosen nodes, and `[~]` for a time of a few
scrapes. A node's own label `instance` (the REAPI instance) comes to Prometheus as
`exported_instance`, since `instance` is there the address that is scraped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Panel:
    """One panel; queries: by legend. Width and height are in Grafana's units."""

    title: str
    unit: str  # of Grafana's list of units
    queries: Mapping[str, str]
    text: str = ""
    kind: Literal["timeseries", "stat", "table", "state-timeline"] = "timeseries"
    width: int = 8
    height: int = 8
    is_stacked: bool = False
    bad_from: float | None = None  # the value from which on it is red
    is_bad_below: bool = False  # red below bad_from instead

    @property
    def is_instant(self) -> bool:
        """Whether only the value of now is shown."""
        return self.kind in {"stat", "table"}


@dataclass(frozen=True)
class Dashboard:
    """One file."""

    name: str
    title: str
    text: str
    panels: tuple[Panel, ...]


def number(
    title: str,
    unit: str,
    query: str,
    text: str = "",
    *,
    bad_from: float | None = None,
) -> Panel:
    """Return a small panel with one number."""
    shown = {"": query}
    return Panel(title, unit, shown, text, "stat", width=3, height=4, bad_from=bad_from)


def quantiles(metric: str, by: str) -> dict[str, str]:
    """Return what half and 99 % of a histogram's observations took at most, for each label."""
    rates = f"sum by (le, {by}) (rate({metric}_bucket{{@}}[~]))"
    return {
        f"{name} {{{{{by}}}}}": f"histogram_quantile({share}, {rates})"
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }
