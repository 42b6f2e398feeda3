"""Metrics of peers: counters, and series that the replicating process makes when scraped.

Only that one process on a data directory has series with a peer's name, save those about the room
that peers take up. Names come from the configuration, all other labels from closed sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from federation.observability.declared import Merge, MetricDeclarations
from federation.observability.families import Family

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


def peer_families(facts: Mapping[str, Any]) -> Iterator[Family]:
    """Yield the series of peers; facts: what `status` shows of replication."""
    peers = facts["peers"]
    leads = Family(_REPLICATES, "gauge", "1 in the process that sends to peers, 0 in others")
    # 0 also counts: the sum over all workers shows whether anybody replicates.
    leads.add(float(facts["replicates-here"]), labels={})
    yield leads
    for key, (name, what) in _GAUGES.items():
        family = Family(name, "gauge", what)
        for peer in peers:
            family.add(peer[key], labels={"peer": peer["name"]})
        yield family
    for key, (name, what) in _COUNTERS.items():
        family = Family(name, "counter", what)
        for peer in peers:
            family.add(peer[key], suffix="_total", labels={"peer": peer["name"]})
        yield family
    yield _states(peers)
    yield _skipped(peers)
    yield _last_success(peers)


def _states(peers: list[Mapping[str, Any]]) -> Family:
    family = Family(_STATE, "gauge", "1 for the state that a peer is in, 0 for the others")
    for peer in peers:
        now = peer["state"].replace(" ", "-")
        # All of them each time: a state that is left must show 0, not end.
        for state in dict.fromkeys((*STATES, now)):
            family.add(float(state == now), labels={"peer": peer["name"], "state": state})
    return family


def _skipped(peers: list[Mapping[str, Any]]) -> Family:
    family = Family(
        "federation_peer_skipped_objects", "counter", "Objects that were not sent, by reason"
    )
    for peer in peers:
        for reason, count in peer["skipped"].items():
            labels = {"peer": peer["name"], "reason": reason}
            family.add(count, suffix="_total", labels=labels)
    return family


def _last_success(peers: list[Mapping[str, Any]]) -> Family:
    family = Family(
        _LAST_SUCCESS, "gauge", "When a peer last took something (Unix time); absent: never"
    )
    for peer in peers:
        # Without it the series is absent: 0 would look like 1970 in every dashboard.
        if peer["last-success"]:
            at_s = datetime.fromisoformat(peer["last-success"]).timestamp()
            family.add(at_s, labels={"peer": peer["name"]})
    return family
