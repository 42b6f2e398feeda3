"""Metrics of what is fetched though no client asks: lost blobs, and what a schedule names."""

from __future__ import annotations

from federation.observability.declared import Merge, MetricDeclarations


class FetchMetrics:
    """Counted in the one process of a storage that fetches."""

    def __init__(self, declare: MetricDeclarations) -> None:
        self.healed = declare.counter(
            "federation_healed_total",
            "Blobs set aside as damaged that were fetched again, by the kind of server (upstream, "
            "peer) that sent them",
            ["source"],
        )
        self.lost_blobs = declare.gauge(
            "federation_lost_blobs",
            Merge.SUM,
            "Blobs found damaged here that no upstream or peer has sent so far",
        )
        self.scheduled_names = declare.counter(
            "federation_scheduled_pull_names_total",
            "Names that scheduled pulls have ended with, by result (whole, not-found, incomplete)",
            ["result"],
        )
        self.scheduled_bytes = declare.counter(
            "federation_scheduled_pull_bytes_total", "Bytes that scheduled pulls have brought"
        )
