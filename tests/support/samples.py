"""Prometheus metrics as a test reads them."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from federation.observability.metrics import Metrics


class Samples:
    """One scrape of /metrics."""

    def __init__(self, text: str) -> None:
        self._samples = [s for f in text_string_to_metric_families(text) for s in f.samples]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of this name that carry these labels; 0 if none do."""
        return sum(
            s.value
            for s in self._samples
            if s.name == name and labels.items() <= dict(s.labels).items()
        )


def sample_value(metrics: Metrics, name: str, labels: Mapping[str, str] | None = None) -> float:
    """Return the sample of this name with these labels and no others; 0 if there is none."""
    wanted = name, set((labels or {}).items())
    for family in metrics.declared.families():
        for (sample, carried), value in family.values.items():
            if (sample, set(carried)) == wanted:
                return value
    return 0.0
