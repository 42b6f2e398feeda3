"""Limits, refusals and the process itself."""

from __future__ import annotations

from boards.panel import Dashboard, Panel, quantiles

LIMITS = Dashboard(
    "limits",
    "limits and access",
    "What callers are kept from, and what the process itself may use.",
    (
        Panel(
            "limits reached",
            "ops",
            {"{{limit}}": "sum by (limit) (rate(federation_limits_hit_total{@}[~]))"},
            "by its key below `limits`; limit_hit in the log names the callers",
        ),
        Panel(
            "callers that waited for their share",
            "ops",
            {"{{by}}": "sum by (by) (rate(federation_callers_held_back_total{@}[~]))"},
        ),
        Panel(
            "calls refused",
            "reqps",
            {
                "{{code}} {{method}}": "sum by (code, method) (rate(federation_requests_total"
                '{@, code=~"UNAUTHENTICATED|PERMISSION_DENIED|RESOURCE_EXHAUSTED"}[~])) > 0'
            },
            "client_refused in the log names the callers",
        ),
        Panel("calls running", "none", {"{{instance}}": "federation_requests_running{@}"}),
        Panel("uploads open", "none", {"{{instance}}": "federation_uploads_open{@}"}),
        Panel(
            "certificates end in",
            "s",
            {
                "{{instance}} {{listener}}": "federation_server_certificate_"
                "expiry_timestamp_seconds{@} - time()"
            },
            bad_from=14 * 86_400,
            is_bad_below=True,
        ),
        Panel(
            "keys of tokens are so old",
            "s",
            {"{{instance}} {{url}}": "time() - federation_jwt_keys_timestamp_seconds{@}"},
            "keys from a URL only; after keys-max-age no JSON Web Token is accepted",
            bad_from=6 * 3600,
        ),
        Panel(
            "fetches of keys",
            "ops",
            {"{{outcome}}": "sum by (outcome) (rate(federation_jwt_key_fetches_total{@}[~]))"},
            "keys from a URL only; jwt_keys_not_fetched in the log has the reason",
        ),
        Panel(
            "open files",
            "percentunit",
            {"{{instance}}": "process_open_fds{@} / process_max_fds{@}"},
        ),
        Panel("memory", "bytes", {"{{instance}}": "process_resident_memory_bytes{@}"}),
        Panel(
            "event loop lag",
            "s",
            quantiles("federation_event_loop_lag_seconds", "instance"),
        ),
        Panel(
            "spans of traces",
            "ops",
            {"{{result}}": "sum by (result) (rate(federation_trace_spans_total{@}[~]))"},
            "nodes with `traces` only; dropped: too many waited for the collector",
        ),
        Panel(
            "workers",
            "none",
            {"{{instance}} {{state}}": "federation_workers{@}"},
            "nodes with `workers` only",
        ),
        Panel(
            "workers started again",
            "none",
            {"{{instance}}": "increase(federation_worker_restarts_total{@}[1h])"},
            "in an hour",
        ),
    ),
)
