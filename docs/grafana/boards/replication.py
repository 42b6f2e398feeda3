"""Peers, and what they lack."""

from __future__ import annotations

from boards.panel import Dashboard, Panel, quantiles

REPLICATION = Dashboard(
    "replication",
    "replication",
    "The peers that new objects are sent to.",
    (
        Panel(
            "state",
            "none",
            {"{{instance}} to {{peer}}: {{state}}": "federation_peer_state{@} == 1"},
            "docs/operations.md has the meaning of each",
            kind="state-timeline",
            width=24,
            height=6,
        ),
        Panel(
            "lag",
            "s",
            {"{{instance}} to {{peer}}": "federation_peer_lag_seconds{@}"},
            "the age of the oldest object that a peer lacks",
        ),
        Panel(
            "objects lacking",
            "none",
            {"{{instance}} to {{peer}}": "federation_peer_lag_objects{@}"},
        ),
        Panel(
            "bytes lacking",
            "bytes",
            {"{{instance}} to {{peer}}": "federation_peer_lag_bytes{@}"},
        ),
        Panel(
            "objects sent",
            "ops",
            {"{{instance}} to {{peer}}": "rate(federation_peer_sent_objects_total{@}[~])"},
        ),
        Panel(
            "bytes sent",
            "Bps",
            {"{{instance}} to {{peer}}": "rate(federation_peer_sent_bytes_total{@}[~])"},
        ),
        Panel(
            "objects not sent",
            "ops",
            {
                "{{peer}} present": "sum by (peer) "
                "(rate(federation_peer_present_objects_total{@}[~]))",
                "{{peer}} {{reason}}": "sum by (peer, reason) "
                "(rate(federation_peer_skipped_objects_total{@}[~]))",
            },
            "present: the peer had them",
        ),
        Panel(
            "parked",
            "none",
            {"{{instance}} to {{peer}}": "federation_peer_parked_objects{@}"},
            "objects that a peer does not take: `federation parked` has the reasons",
        ),
        Panel(
            "given up, forgotten",
            "none",
            {
                "given up for {{peer}}: {{reason}}": "sum by (peer, reason) "
                "(increase(federation_peer_given_up_total{@}[1h]))",
                "forgotten by {{peer}}": "sum by (peer) "
                "(increase(federation_peer_forgotten_objects_total{@}[1h]))",
            },
            "in an hour",
        ),
        Panel(
            "since a peer last took something",
            "s",
            {
                "{{instance}} to {{peer}}": "time() - "
                "federation_peer_last_success_timestamp_seconds{@}"
            },
        ),
        Panel(
            "writes that waited for peers",
            "s",
            quantiles("federation_acknowledge_seconds", "acknowledge"),
            "listeners with `acknowledge`",
        ),
        Panel(
            "writes answered before peers had them",
            "ops",
            {
                "{{acknowledge}}": "sum by (acknowledge) "
                "(rate(federation_acknowledge_timeouts_total{@}[~]))"
            },
        ),
        Panel(
            "processes that replicate",
            "none",
            {"{{instance}}": "federation_replicates{@}"},
            "one on each data directory with peers",
        ),
    ),
)
