"""Upstreams, and the links to them."""

from __future__ import annotations

from boards.panel import Dashboard, Panel, quantiles

UPSTREAMS = Dashboard(
    "upstreams",
    "upstreams",
    "The caches that misses are pulled from.",
    (
        Panel(
            "state",
            "none",
            {"{{instance}} {{upstream}}": "federation_upstream_up{@}"},
            "1 while an upstream is asked, 0 while it is only probed",
            kind="state-timeline",
            width=24,
            height=6,
            bad_from=1,
            is_bad_below=True,
        ),
        Panel(
            "answers about blobs",
            "ops",
            {
                "{{upstream}} {{result}}": "sum by (upstream, result) "
                "(rate(federation_upstream_answers_total{@}[~]))"
            },
            "any wrong_bytes: a broken cache or link",
        ),
        Panel(
            "answers about entries",
            "ops",
            {
                "{{upstream}} {{kind}} {{result}}": "sum by (upstream, kind, result) "
                "(rate(federation_upstream_entries_total{@}[~]))"
            },
        ),
        Panel(
            "bytes on the links",
            "Bps",
            {
                "{{remote}} {{direction}}": "sum by (remote, direction) "
                "(rate(federation_remote_bytes_total{@}[~]))"
            },
            "messages from (in) and to (out) upstreams and peers",
        ),
        Panel(
            "first byte of a stream",
            "s",
            quantiles("federation_remote_first_byte_seconds", "remote"),
        ),
        Panel(
            "calls",
            "s",
            quantiles("federation_remote_seconds", "remote"),
        ),
        Panel(
            "calls that failed",
            "ops",
            {
                "{{remote}} {{outcome}}": "sum by (remote, outcome) "
                '(rate(federation_remote_calls_total{@, outcome!~"ok|not_found"}[~])) > 0'
            },
            "denied, certificate: somebody has to act",
        ),
        Panel(
            "reads that joined one under way",
            "ops",
            {
                "{{upstream}}": "sum by (upstream) "
                "(rate(federation_upstream_reads_saved_total{@}[~]))"
            },
        ),
        Panel(
            "prefetches",
            "none",
            {
                "unfinished": "sum(federation_prefetches_unfinished{@})",
                "dropped in an hour": "sum(increase(federation_prefetches_dropped_total{@}[1h]))",
            },
        ),
        Panel(
            "scheduled pulls",
            "none",
            {
                "{{result}}": "sum by (result) "
                "(increase(federation_scheduled_pull_names_total{@}[1h]))"
            },
            "names in an hour",
        ),
        Panel(
            "scheduled pulls, bytes",
            "Bps",
            {"{{instance}}": "rate(federation_scheduled_pull_bytes_total{@}[~])"},
        ),
        Panel(
            "blobs that were not what they should be",
            "none",
            {
                "{{remote}}": "sum by (remote) "
                "(increase(federation_remote_wrong_blobs_total{@}[1h]))"
            },
            "in batches, in an hour",
        ),
    ),
)
