"""Room, eviction, the disk and the bucket."""

from __future__ import annotations

from boards.panel import Dashboard, Panel, quantiles

STORAGE = Dashboard(
    "storage",
    "storage",
    "What is held, what is evicted, and whether the disk is well.",
    (
        Panel(
            "room",
            "bytes",
            {
                "{{instance}} used": "federation_quota_used_bytes{@}",
                "{{instance}} quota": "federation_quota_bytes{@}",
                "{{instance}} beside it": "federation_overhead_bytes{@}",
            },
            "used: files in blocks and pages of the catalogue",
        ),
        Panel("bytes held", "bytes", {"{{instance}}": "federation_stored_bytes{@}"}),
        Panel(
            "pinned",
            "bytes",
            {"{{instance}}": "federation_pinned_bytes{@}"},
            "of the quota; storage.pins-max bounds it",
        ),
        Panel(
            "objects held",
            "none",
            {
                "{{instance}} blobs": "federation_stored_blobs{@}",
                "{{instance}} entries": "federation_stored_entries{@}",
            },
        ),
        Panel(
            "evicted",
            "ops",
            {"{{instance}}": "rate(federation_evicted_total{@}[~])"},
        ),
        Panel(
            "expired",
            "ops",
            {"{{instance}}": "rate(federation_expired_entries_total{@}[~])"},
            "entries that were not used for longer than storage.expire-after",
        ),
        Panel(
            "bytes evicted",
            "Bps",
            {"{{instance}}": "rate(federation_evicted_bytes_total{@}[~])"},
        ),
        Panel(
            "writes refused for room",
            "ops",
            {"{{instance}}": "rate(federation_refused_for_room_total{@}[~])"},
        ),
        Panel(
            "commits",
            "s",
            quantiles("federation_commit_seconds", "instance"),
            "one transaction of the catalogue, begin to durable",
        ),
        Panel(
            "damaged and healed",
            "none",
            {
                "damaged": "sum(increase(federation_quarantined_total{@}[1h]))",
                "right after all": "sum(increase(federation_restored_total{@}[1h]))",
                "healed by {{source}}": "sum by (source) "
                "(increase(federation_healed_total{@}[1h]))",
                "lost": "sum(federation_lost_blobs{@})",
            },
            "in an hour; lost: now",
        ),
        Panel(
            "quarantine",
            "bytes",
            {"{{instance}}": "federation_quarantine_bytes{@}"},
        ),
        Panel(
            "trouble",
            "none",
            {
                "{{instance}} volume in doubt": "federation_volume_in_doubt{@}",
                "{{instance}} background work fails": "federation_background_failing{@}",
            },
            "/readyz has the reason",
        ),
        Panel(
            "promises withheld",
            "ops",
            {"{{instance}}": "rate(federation_leases_withheld_total{@}[~])"},
            "blobs held here that were called missing, because the disk was too slow",
        ),
        Panel(
            "clocks",
            "s",
            {"{{instance}}": "federation_dates_ahead_seconds{@}"},
            "how far the latest date of a name's value is ahead of the clock",
        ),
        Panel(
            "dates corrected",
            "none",
            {"{{instance}}": "increase(federation_redated_entries_total{@}[1h])"},
            "names in an hour whose values got new dates",
        ),
        Panel(
            "bucket: requests",
            "ops",
            {
                "{{operation}} {{outcome}}": "sum by (operation, outcome) "
                "(rate(federation_bucket_requests_total{@}[~]))"
            },
            "nodes of a shared site only",
        ),
        Panel(
            "bucket: time of a request",
            "s",
            quantiles("federation_bucket_seconds", "operation"),
        ),
        Panel(
            "bucket: bytes",
            "Bps",
            {
                "{{direction}}": "sum by (direction) (rate(federation_bucket_bytes_total{@}[~]))",
                "scrubbed": "sum(rate(federation_bucket_scrubbed_bytes_total{@}[~]))",
            },
        ),
        Panel("bucket: answers", "none", {"{{instance}}": "federation_bucket_up{@}"}),
        Panel(
            "bucket: left-overs deleted",
            "none",
            {"{{instance}}": "increase(federation_bucket_swept_total{@}[1h])"},
            "in an hour",
        ),
    ),
)
