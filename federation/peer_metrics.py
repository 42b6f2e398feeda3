"""The counters and gauges about peers. One process on a data directory replicates: only it has
series with a peer's name. Names come from the configuration, all other labels from closed sets.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_WAIT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class PeerMetrics:
    """Everything that is counted about peers."""

    def __init__(self, reg: CollectorRegistry) -> None:
        self.lag_objects = Gauge(
            "federation_peer_lag_objects",
            "Rows of the change log that a peer has not acknowledged",
            ["peer"],
            registry=reg,
        )
        self.lag_bytes = Gauge(
            "federation_peer_lag_bytes",
            "Bytes of the objects in these rows",
            ["peer"],
            registry=reg,
        )
        self.lag_seconds = Gauge(
            "federation_peer_lag_seconds",
            "Age of the oldest row that a peer has not acknowledged; 0: there is none",
            ["peer"],
            registry=reg,
        )
        self.state = Gauge(
            "federation_peer_state",
            "1 for the state that a peer is in, 0 for the others",
            ["peer", "state"],
            registry=reg,
        )
        self.last_success_s = Gauge(
            "federation_peer_last_success_timestamp_seconds",
            "When a peer last took something or said that it has it (Unix time)",
            ["peer"],
            registry=reg,
        )
        self.sent = Counter(
            "federation_peer_sent_total",
            "Objects that a peer took, by kind (blob, action_result, asset)",
            ["peer", "kind"],
            registry=reg,
        )
        self.sent_bytes = Counter(
            "federation_peer_sent_bytes_total", "Bytes of these objects", ["peer"], registry=reg
        )
        self.skipped = Counter(
            "federation_peer_skipped_total",
            "Objects not sent, by reason (held: the peer has it; rule, loop, superseded, gone, "
            "unsupported, incomplete)",
            ["peer", "reason"],
            registry=reg,
        )
        self.parked = Gauge(
            "federation_peer_parked",
            "Objects set aside that a peer does not take",
            ["peer"],
            registry=reg,
        )
        self.errors = Counter(
            "federation_peer_errors_total",
            "Failures while sending, by kind as in federation_remote_calls_total",
            ["peer", "kind"],
            registry=reg,
        )
        self.resyncs = Counter(
            "federation_peer_resyncs_total",
            "Comparisons of all that is held here with what a peer has, by how they ended (done, "
            "broken_off)",
            ["peer", "result"],
            registry=reg,
        )
        self.given_up = Counter(
            "federation_peer_given_up_total",
            "Times that what a peer lacked was more than may be kept for it, by what was full "
            "(room: the quota; log: log-max-rows); a comparison brings it up to date",
            ["peer", "reason"],
            registry=reg,
        )
        self.forgot = Counter(
            "federation_peer_forgot_total",
            "Objects that a peer had acknowledged and was found to lack later",
            ["peer"],
            registry=reg,
        )
        self.acknowledge_seconds = Histogram(
            "federation_acknowledge_seconds",
            "How long writes waited for peers, by what the listener asks for (acknowledge)",
            ["acknowledge"],
            buckets=_WAIT_S,
            registry=reg,
        )
        self.acknowledge_timeouts = Counter(
            "federation_acknowledge_timeouts_total",
            "Writes answered with OK although peers had not acknowledged them in time",
            ["acknowledge"],
            registry=reg,
        )
