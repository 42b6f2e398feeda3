"""The counters that every floor writes and that /metrics and `federation status` read.

One Metrics object a process, with a registry of its own, so that several nodes can live in one
test process. Label values come from closed sets only (method names, status names, kinds): no
name that a client chose ever becomes a label, which keeps the number of series bounded.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from federation.core.tasks import FailingWork
from federation.observability.peer_metrics import PeerMetrics

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Everything this process counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        reg = self.registry
        self.peers = PeerMetrics(reg)
        self.requests = Counter(
            "federation_requests_total",
            "Calls ended, by method and status",
            ["method", "code"],
            registry=reg,
        )
        self.request_seconds = Histogram(
            "federation_request_seconds",
            "Time from first byte to status",
            ["method"],
            buckets=_SECONDS,
            registry=reg,
        )
        self.failing = FailingWork()
        Gauge(
            "federation_background_failing",
            "Kinds of background work that keep failing",
            registry=reg,
        ).set_function(lambda: len(self.failing))
        self.calls_running = 0  # of this process; counted on the event loop
        Gauge("federation_requests_running", "Calls being answered now", registry=reg).set_function(
            lambda: self.calls_running
        )
        self.bytes = Counter(
            "federation_blob_bytes_total",
            "Blob bytes moved, by direction (in, out)",
            ["direction"],
            registry=reg,
        )
        self.lookups = Counter(
            "federation_lookups_total",
            "Objects asked for, by kind (blob, action_result, asset) and result (hit, miss)",
            ["kind", "result"],
            registry=reg,
        )
        self.stored_bytes = Gauge(
            "federation_stored_bytes", "Bytes held, index included", registry=reg
        )
        self.stored_blobs = Gauge("federation_stored_blobs", "Blobs held", registry=reg)
        self.stored_entries = Gauge(
            "federation_stored_entries", "Action results and assets held", registry=reg
        )
        self.quota_bytes = Gauge("federation_quota_bytes", "Effective quota", registry=reg)
        self.held_bytes = Gauge(
            "federation_quota_used_bytes",
            "What all that is held takes of the disk and of the quota: files in blocks, and pages "
            "of the catalogue",
            registry=reg,
        )
        self.overhead_bytes = Gauge(
            "federation_overhead_bytes",
            "What the data directory takes beside that: the write-ahead log, free pages, folders, "
            "the reserve, quarantine",
            registry=reg,
        )
        self.evicted = Counter("federation_evicted_total", "Objects evicted", registry=reg)
        self.evicted_bytes = Counter(
            "federation_evicted_bytes_total", "Bytes evicted", registry=reg
        )
        self.refused_for_room = Counter(
            "federation_refused_for_room_total",
            "Writes refused because the quota was used up, or the disk",
            registry=reg,
        )
        self.leases_withheld = Counter(
            "federation_leases_withheld_total",
            "Blobs held here that were called missing, because their leases could not be written",
            registry=reg,
        )
        self.dates_ahead = Gauge(
            "federation_dates_ahead_seconds",
            "How far the latest date of a name's value is ahead of this machine's clock",
            registry=reg,
        )
        self.redated = Counter(
            "federation_redated_entries_total",
            "Names whose values were dated anew, as a wrong clock had dated them too far ahead",
            registry=reg,
        )
        self.quarantined = Counter(
            "federation_quarantined_total", "Blobs found damaged and set aside", registry=reg
        )
        self.quarantine_bytes = Gauge(
            "federation_quarantine_bytes",
            "Bytes of damaged blobs that are kept for inspection, within the quota",
            registry=reg,
        )
        self.volume_in_doubt = Gauge(
            "federation_volume_in_doubt",
            "1 while the volume of the blobs is away or too much on it is damaged",
            registry=reg,
        )
        self.restored = Counter(
            "federation_restored_total",
            "Blobs set aside unread that turned out to be right, and are held again",
            registry=reg,
        )
        self.uploads_open = Gauge(
            "federation_uploads_open", "Uploads begun and not ended", registry=reg
        )
        self.commit_seconds = Histogram(
            "federation_commit_seconds",
            "One catalogue transaction, begin to durable",
            buckets=_SECONDS,
            registry=reg,
        )
        self.upstream_up = Gauge(
            "federation_upstream_up",
            "1 while an upstream is asked, 0 while it is only probed",
            ["upstream"],
            registry=reg,
        )
        self.upstream_answers = Counter(
            "federation_upstream_answers_total",
            "What upstreams said about blobs (hit, miss), or that they did not (silence) or would "
            "later (busy), or worse (wrong_bytes)",
            ["upstream", "result"],
            registry=reg,
        )
        self.upstream_entries = Counter(
            "federation_upstream_entries_total",
            "Index entries that upstreams answered about, by kind (action_result, asset) and "
            "result (hit, miss)",
            ["upstream", "kind", "result"],
            registry=reg,
        )
        self.reads_saved = Counter(
            "federation_upstream_reads_saved_total",
            "Reads of absent blobs that joined one under way instead of asking an upstream, by the "
            "upstream that sent the bytes",
            ["upstream"],
            registry=reg,
        )
        self.prefetches = Gauge(
            "federation_prefetches_unfinished",
            "Pulled entries whose closures are still being brought here; at 0 the upstreams may go",
            registry=reg,
        )
        self.prefetches_dropped = Counter(
            "federation_prefetches_dropped_total",
            "Pulled entries whose closures are not brought here, because too many wait already",
            registry=reg,
        )
        self.held_back = Counter(
            "federation_callers_held_back_total",
            "Times that a caller had to wait for its share, by what there was too much of "
            "(uploads, upload_bytes, bandwidth)",
            ["by"],
            registry=reg,
        )
        self.limits_hit = Counter(
            "federation_limits_hit_total",
            "Times that a bound on callers was reached, by its key below `limits`",
            ["limit"],
            registry=reg,
        )
        self.certificate_end = Gauge(
            "federation_server_certificate_expiry_timestamp_seconds",
            "When the certificate that a listener shows expires, in seconds since 1970",
            ["listener"],
            registry=reg,
        )
        self.loop_lag_seconds = Histogram(
            "federation_event_loop_lag_seconds",
            "How late the event loop ran a timer",
            buckets=_SECONDS,
            registry=reg,
        )
        self.remote_calls = Counter(
            "federation_remote_calls_total",
            "Calls to other servers, by the server's name, method and outcome",
            ["remote", "method", "outcome"],
            registry=reg,
        )
        self.remote_bytes = Counter(
            "federation_remote_bytes_total",
            "Message bytes from (in) and to (out) other servers",
            ["remote", "direction"],
            registry=reg,
        )
        self.remote_wrong_bytes = Counter(
            "federation_remote_wrong_blobs_total",
            "Blobs from other servers that were not what their digests name",
            ["remote"],
            registry=reg,
        )
        self.remote_first_byte_seconds = Histogram(
            "federation_remote_first_byte_seconds",
            "Time to the first message of a stream from another server",
            ["remote", "method"],
            buckets=_SECONDS,
            registry=reg,
        )
        self.remote_seconds = Histogram(
            "federation_remote_seconds",
            "Time that a call to another server took",
            ["remote", "method"],
            buckets=_SECONDS,
            registry=reg,
        )
