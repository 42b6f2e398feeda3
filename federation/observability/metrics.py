"""What this process counts and measures: every room writes it, /metrics shows it.

One Metrics object a process, so that several nodes can live in one test process. Label values come
from closed sets (method names, status names, kinds), which keeps the number of series bounded; of
the names that clients choose only those of instances become labels, a bounded number of them
(traffic.py).
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from federation import __version__
from federation.core.tasks import FailingWork
from federation.observability.access_metrics import AccessMetrics
from federation.observability.bucket_metrics import BucketMetrics
from federation.observability.declared import Merge, MetricDeclarations
from federation.observability.fetch_metrics import FetchMetrics
from federation.observability.keeping_metrics import KeepingMetrics
from federation.observability.peer_metrics import PeerMetrics
from federation.observability.traffic import Traffic, traffic_families

if TYPE_CHECKING:
    from federation.observability.tracing.tracer import Tracer


class Metrics:
    """Everything this process counts."""

    def __init__(self) -> None:
        self.declared = declare = MetricDeclarations()
        self.tracer: Tracer | None = None  # None: there are no traces
        self.peers = PeerMetrics(declare)
        self.bucket = BucketMetrics(declare)
        self.access = AccessMetrics(declare)
        self.fetching = FetchMetrics(declare)
        self.keeping = KeepingMetrics(declare)
        declare.process()
        declare.gauge(
            "federation_build_info",
            Merge.SAME,
            "Always 1; the labels say what this process runs",
            ["version", "python"],
        ).labels(version=__version__, python=platform.python_version()).set(1)
        self.requests = declare.counter(
            "federation_requests_total", "Calls ended, by method and status", ["method", "code"]
        )
        self.request_seconds = declare.histogram(
            "federation_request_seconds",
            "Time from first byte to status",
            ["method"],
        )
        self.failing = FailingWork()
        declare.gauge(
            "federation_background_failing", Merge.SUM, "Kinds of background work that keep failing"
        ).set_function(lambda: len(self.failing))
        self.calls_running = 0  # of this process; counted on the event loop
        declare.gauge(
            "federation_requests_running", Merge.SUM, "Calls being answered now"
        ).set_function(lambda: self.calls_running)
        self.traffic = Traffic()
        declare.collect_from(lambda: traffic_families(self.traffic))
        self.stored_bytes = declare.gauge(
            "federation_stored_bytes", Merge.SAME, "Bytes held, index included"
        )
        self.stored_blobs = declare.gauge("federation_stored_blobs", Merge.SAME, "Blobs held")
        self.stored_entries = declare.gauge(
            "federation_stored_entries", Merge.SAME, "Action results and assets held"
        )
        self.quota_bytes = declare.gauge("federation_quota_bytes", Merge.SAME, "Effective quota")
        self.held_bytes = declare.gauge(
            "federation_quota_used_bytes",
            Merge.SAME,
            "Bytes of the disk and of the quota that all objects take: files in blocks, and pages "
            "of the catalogue",
        )
        self.overhead_bytes = declare.gauge(
            "federation_overhead_bytes",
            Merge.SAME,
            "What the data directory takes beside that: the write-ahead log, free pages, folders, "
            "the reserve, quarantine",
        )
        self.evicted = declare.counter("federation_evicted_total", "Objects evicted")
        self.evicted_bytes = declare.counter("federation_evicted_bytes_total", "Bytes evicted")
        self.refused_for_room = declare.counter(
            "federation_refused_for_room_total",
            "Writes refused because the quota was used up, or the disk",
        )
        self.leases_withheld = declare.counter(
            "federation_leases_withheld_total",
            "Blobs held here that were called missing, because their leases could not be written",
        )
        self.dates_ahead = declare.gauge(
            "federation_dates_ahead_seconds",
            Merge.SAME,
            "How far the latest date of a name's value is ahead of this machine's clock",
        )
        self.redated = declare.counter(
            "federation_redated_entries_total",
            "Names whose values were dated anew, as a wrong clock had dated them too far ahead",
        )
        self.quarantined = declare.counter(
            "federation_quarantined_total", "Blobs found damaged and set aside"
        )
        self.quarantine_bytes = declare.gauge(
            "federation_quarantine_bytes",
            Merge.SAME,
            "Bytes of damaged blobs that are kept for inspection, within the quota",
        )
        self.volume_in_doubt = declare.gauge(
            "federation_volume_in_doubt",
            Merge.SAME,
            "1 while the volume of the blobs is away or too much on it is damaged",
        )
        self.restored = declare.counter(
            "federation_restored_total",
            "Blobs set aside unread that turned out to be right, and are held again",
        )
        self.uploads_open = declare.gauge(
            "federation_uploads_open", Merge.SUM, "Uploads begun and not ended"
        )
        self.commit_seconds = declare.histogram(
            "federation_commit_seconds",
            "One catalogue transaction, begin to durable",
        )
        self.upstream_up = declare.gauge(
            "federation_upstream_up",
            Merge.LEAST,
            "1 while an upstream is asked, 0 while it is only probed",
            ["upstream"],
        )
        self.upstream_answers = declare.counter(
            "federation_upstream_answers_total",
            "Answers of upstreams about blobs, by result (hit, miss, silence: none came, busy: it "
            "wants to be asked later, wrong_bytes)",
            ["upstream", "result"],
        )
        self.upstream_entries = declare.counter(
            "federation_upstream_entries_total",
            "Index entries that upstreams answered about, by kind (action_result, asset) and "
            "result (hit, miss)",
            ["upstream", "kind", "result"],
        )
        self.reads_saved = declare.counter(
            "federation_upstream_reads_saved_total",
            "Reads of absent blobs that joined one under way instead of asking an upstream, by the "
            "upstream that sent the bytes",
            ["upstream"],
        )
        self.prefetches = declare.gauge(
            "federation_prefetches_unfinished",
            Merge.SUM,
            "Pulled entries whose closures are still being brought here; at 0 the upstreams may go",
        )
        self.prefetches_dropped = declare.counter(
            "federation_prefetches_dropped_total",
            "Pulled entries whose closures are not brought here, because too many wait already",
        )
        self.held_back = declare.counter(
            "federation_callers_held_back_total",
            "Times that a caller had to wait for its share, by what there was too much of "
            "(uploads, upload_bytes, bandwidth)",
            ["by"],
        )
        self.limits_hit = declare.counter(
            "federation_limits_hit_total",
            "Times that a bound on callers was reached, by its key below `limits`",
            ["limit"],
        )
        self.loop_lag_seconds = declare.histogram(
            "federation_event_loop_lag_seconds",
            "How late the event loop ran a timer",
        )
        self.trace_spans = declare.counter(
            "federation_trace_spans_total",
            "Spans of traces, by what became of them (sent; dropped: too many waited; rejected: "
            "the collector did not take them)",
            ["result"],
        )
        self.remote_calls = declare.counter(
            "federation_remote_calls_total",
            "Calls to other servers, by the server's name, method and outcome",
            ["remote", "method", "outcome"],
        )
        self.remote_bytes = declare.counter(
            "federation_remote_bytes_total",
            "Message bytes from (in) and to (out) other servers",
            ["remote", "direction"],
        )
        self.remote_wrong_bytes = declare.counter(
            "federation_remote_wrong_blobs_total",
            "Blobs from other servers that were not what their digests name",
            ["remote"],
        )
        self.remote_first_byte_seconds = declare.histogram(
            "federation_remote_first_byte_seconds",
            "Time to the first message of a stream from another server",
            ["remote", "method"],
        )
        self.remote_seconds = declare.histogram(
            "federation_remote_seconds",
            "Time that a call to another server took",
            ["remote", "method"],
        )
