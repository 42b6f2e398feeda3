"""What people look at first."""

from __future__ import annotations

from boards.panel import Dashboard, Panel, number

_FOUND = 'sum(rate(federation_lookups_total{@, kind!="presence", result="hit"}[~]))'
_ASKED = 'sum(rate(federation_lookups_total{@, kind!="presence"}[~]))'
_FAILED = "INTERNAL|DATA_LOSS|UNAVAILABLE|UNKNOWN|DEADLINE_EXCEEDED"

OVERVIEW = Dashboard(
    "overview",
    "overview",
    "What the first lines of `federation status` say, over time, and what clients see.",
    (
        number("nodes", "none", "count(federation_build_info{@})"),
        number("up since", "s", "time() - max(process_start_time_seconds{@})", "the youngest"),
        number(
            "of the quota",
            "percentunit",
            "max(federation_quota_used_bytes{@} / federation_quota_bytes{@})",
            "the fullest node",
        ),
        number("hit rate", "percentunit", f"{_FOUND} / ({_ASKED} > 0)", "reads and look-ups"),
        number("requests", "reqps", "sum(rate(federation_requests_total{@}[~]))"),
        number(
            "upstreams down",
            "none",
            "count(federation_upstream_up{@} == 0) or vector(0)",
            bad_from=1,
        ),
        number(
            "peers that lag or fail",
            "none",
            'count(federation_peer_state{@, state!="following"} == 1) or vector(0)',
            "not in the state `following`",
            bad_from=1,
        ),
        number(
            "alerts",
            "none",
            'count(ALERTS{@, alertname=~"Federation.*", alertstate="firing"}) or vector(0)',
            "of docs/alerts.yaml, firing now",
            bad_from=1,
        ),
        Panel(
            "calls by method",
            "reqps",
            {"{{method}}": "sum by (method) (rate(federation_requests_total{@}[~]))"},
            is_stacked=True,
        ),
        Panel(
            "p50 by method",
            "s",
            {
                "{{method}}": "histogram_quantile(0.5, sum by (le, method) "
                "(rate(federation_request_seconds_bucket{@}[~])))"
            },
            "half of the calls took at most so long",
        ),
        Panel(
            "p99 by method",
            "s",
            {
                "{{method}}": "histogram_quantile(0.99, sum by (le, method) "
                "(rate(federation_request_seconds_bucket{@}[~])))"
            },
            "99 % of the calls took at most so long",
        ),
        Panel(
            "hits",
            "ops",
            {
                "{{kind}}": "sum by (kind) "
                '(rate(federation_lookups_total{@, kind!="presence", result="hit"}[~]))'
            },
            is_stacked=True,
        ),
        Panel(
            "misses",
            "ops",
            {
                "{{kind}}": "sum by (kind) "
                '(rate(federation_lookups_total{@, kind!="presence", result="miss"}[~]))'
            },
            is_stacked=True,
        ),
        Panel(
            "hit rate by REAPI instance",
            "percentunit",
            {
                "{{exported_instance}}": "sum by (exported_instance) "
                '(rate(federation_lookups_total{@, kind!="presence", result="hit"}[~])) / '
                "(sum by (exported_instance) "
                '(rate(federation_lookups_total{@, kind!="presence"}[~])) > 0)'
            },
        ),
        Panel(
            "blob bytes",
            "Bps",
            {"{{direction}}": "sum by (direction) (rate(federation_blob_bytes_total{@}[~]))"},
            "in: from clients and peers; out: to them",
        ),
        Panel(
            "blob bytes by REAPI instance",
            "Bps",
            {
                "{{exported_instance}} {{direction}}": "sum by (exported_instance, direction) "
                "(rate(federation_blob_bytes_total{@}[~]))"
            },
        ),
        Panel(
            "errors",
            "reqps",
            {
                "{{method}} {{code}}": "sum by (method, code) "
                f'(rate(federation_requests_total{{@, code=~"{_FAILED}"}}[~])) > 0'
            },
            "the log of the node has the reasons",
        ),
        Panel(
            "CPU",
            "percentunit",
            {"{{instance}}": "rate(process_cpu_seconds_total{@}[~])"},
            "1 is one core",
        ),
        Panel("memory", "bytes", {"{{instance}}": "process_resident_memory_bytes{@}"}),
        Panel(
            "event loop lag, p99",
            "s",
            {
                "{{instance}}": "histogram_quantile(0.99, sum by (le, instance) "
                "(rate(federation_event_loop_lag_seconds_bucket{@}[~])))"
            },
            "above a tenth of a second a process has more to do than it can",
        ),
        Panel(
            "what runs",
            "none",
            {"": "federation_build_info{@}"},
            kind="table",
            width=12,
        ),
    ),
)
