"""Metrics of what operators keep, and of what they let expire."""

from __future__ import annotations

from federation.observability.declared import Merge, MetricDeclarations


class KeepingMetrics:
    """The group of them."""

    def __init__(self, declare: MetricDeclarations) -> None:
        self.pinned_bytes = declare.gauge(
            "federation_pinned_bytes",
            Merge.SAME,
            "Bytes of the quota that pins keep from eviction",
        )
        self.expired = declare.counter(
            "federation_expired_entries_total",
            "Index entries removed, as they were not used for longer than storage.expire-after",
        )
