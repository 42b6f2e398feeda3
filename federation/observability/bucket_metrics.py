"""Metrics of the bucket that a site keeps its large blobs in (`storage.engine: shared`)."""

from __future__ import annotations

from federation.observability.declared import Merge, MetricDeclarations


class BucketMetrics:
    """Requests to the bucket, and what the upkeep of it does."""

    def __init__(self, declare: MetricDeclarations) -> None:
        self.requests = declare.counter(
            "federation_bucket_requests_total",
            "Requests to the bucket, by operation (put, get, head, delete, list) and outcome (ok, "
            "absent, failed, held_back: not sent, because the bucket was away)",
            ["operation", "outcome"],
        )
        self.seconds = declare.histogram(
            "federation_bucket_seconds", "Time that a request to the bucket took", ["operation"]
        )
        self.bytes = declare.counter(
            "federation_bucket_bytes_total",
            "Blob bytes to (out) and from (in) the bucket",
            ["direction"],
        )
        self.up = declare.gauge(
            "federation_bucket_up",
            Merge.LEAST,
            "1 while requests are sent to the bucket, 0 while it is only probed",
        )
        self.swept = declare.counter(
            "federation_bucket_swept_total",
            "Left-over objects of unfinished uploads that were deleted",
        )
        self.scrubbed_bytes = declare.counter(
            "federation_bucket_scrubbed_bytes_total", "Bytes that the scrub has verified"
        )
