"""Prometheus metrics as a test reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


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
