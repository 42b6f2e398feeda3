"""Metrics of peers: counters, and series that the replicating process makes when scraped.

Only that one process on a data directory has series with a peer's name, save those about the room
that peers take up. Names come from the configuration, all other labels from closed sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from federation.observability.declared import Merge, MetricDeclarations

_WAIT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class PeerMetrics:
    """The counters of events that concern peers."""

    def __init__(self, declare: MetricDeclarations) -> None:
        self.given_up = declare.counter(
            "federation_peer_given_up_total",
            "Times that what a peer lacked was more than may be kept for it, by what was full "
            "(room: the quota; log: log-max-rows); a comparison brings it up to date",
            ["peer", "reason"],
        )
        self.acknowledge_seconds = declare.histogram(
            "federation_acknowledge_seconds",
            "How long writes waited for peers, by what the listener asks for (acknowledge)",
            ["acknowledge"],
            buckets=_WAIT_S,
        )
        self.acknowledge_timeouts = declare.counter(
            "federation_acknowledge_timeouts_total",
            "Writes answered with OK although peers had not acknowledged them in time",
            ["acknowledge"],
        )
        declare.collected_gauge(_REPLICATES, Merge.SUM)
        for name in (_STATE, _LAST_SUCCESS, *(name for name, _ in _GAUGES.values())):
            declare.collected_gauge(name, Merge.SAME)


_REPLICATES = "federation_replicates"
_STATE = "federation_peer_state"
_LAST_SUCCESS = "federation_peer_last_success_timestamp_seconds"

STATES = (
    "starting",
    "meeting",
    "following",
    "reconciling",
    "needs-resync",
    "unreachable",
    "refused",
    "itself",
    "local-trouble",
    "failed",
)

_GAUGES = {
    "lag-objects": (
        "federation_peer_lag_objects",
        "Objects in the change log that a peer has not acknowledged",
    ),
    "lag-bytes": ("federation_peer_lag_bytes", "Bytes of the objects that it lacks"),
    "lag-s": (
        "federation_peer_lag_seconds",
        "Age of the oldest object that it has not acknowledged; 0: there is none",
    ),
    "parked": ("federation_peer_parked_objects", "Objects set aside that it does not take"),
}
_COUNTERS = {
    "sent-objects-total": ("federation_peer_sent_objects", "Objects that it was sent and has"),
    "sent-bytes-total": ("federation_peer_sent_bytes", "Bytes of these objects"),
    "present-objects": (
        "federation_peer_present_objects",
        "Objects that it had already when it was asked",
    ),
    "forgotten": (
        "federation_peer_forgotten_objects",
        "Objects that it had acknowledged and was found to lack later",
    ),
}


class PeerCollector(Collector):
    """Makes series of what `status` shows of peers, when it is scraped."""

    def __init__(self, describe: Callable[[], Mapping[str, Any]]) -> None:
        """describe: gives "replicates-here" and "peers", from memory."""
        self._describe = describe

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        facts = self._describe()
        peers = facts["peers"]
        leads = GaugeMetricFamily(_REPLICATES, "1 in the process that sends to peers, 0 in others")
        leads.add_metric([], float(facts["replicates-here"]))
        yield leads
        for key, (name, what) in _GAUGES.items():
            yield _filled(GaugeMetricFamily(name, what, labels=["peer"]), key, peers)
        for key, (name, what) in _COUNTERS.items():
            yield _filled(CounterMetricFamily(name, what, labels=["peer"]), key, peers)
        yield _states(peers)
        yield _skipped(peers)
        yield _last_success(peers)


def _filled(family: Metric, key: str, peers: list[Mapping[str, Any]]) -> Metric:
    for peer in peers:
        family.add_metric([peer["name"]], peer[key])  # type: ignore[attr-defined]
    return family


def _states(peers: list[Mapping[str, Any]]) -> Metric:
    family = GaugeMetricFamily(
        _STATE,
        "1 for the state that a peer is in, 0 for the others",
        labels=["peer", "state"],
    )
    for peer in peers:
        now = peer["state"].replace(" ", "-")
        for state in dict.fromkeys((*STATES, now)):
            family.add_metric([peer["name"], state], float(state == now))
    return family


def _skipped(peers: list[Mapping[str, Any]]) -> Metric:
    family = CounterMetricFamily(
        "federation_peer_skipped_objects",
        "Objects that were not sent, by reason",
        labels=["peer", "reason"],
    )
    for peer in peers:
        for reason, count in peer["skipped"].items():
            family.add_metric([peer["name"], reason], count)
    return family


def _last_success(peers: list[Mapping[str, Any]]) -> Metric:
    family = GaugeMetricFamily(
        _LAST_SUCCESS,
        "When a peer last took something (Unix time); absent: never",
        labels=["peer"],
    )
    for peer in peers:
        if peer["last-success"]:
            at_s = datetime.fromisoformat(peer["last-success"]).timestamp()
            family.add_metric([peer["name"]], at_s)
    return family
