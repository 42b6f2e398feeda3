"""What a process did, as changes of its counters."""

from typing import Any

from federation.observability.metrics import Metrics
from federation.server.statistics import ActivitySampler


class Watched:
    def __init__(self, *upstreams: str) -> None:
        self.metrics = Metrics()
        self.upstreams = list(upstreams)
        self.peers: list[dict[str, Any]] = []
        self.sampler = ActivitySampler(self.metrics, lambda: self.upstreams, lambda: self.peers)

    def changes(self) -> dict[str, dict[str, int]]:
        return {name: dict(counts) for name, counts in self.sampler.changes().items()}


def test_only_what_is_new_is_counted() -> None:
    node = Watched()
    node.metrics.requests.labels(method="a/B", code="OK").inc(3)
    node.metrics.traffic.of("").blobs.hits += 2
    node.metrics.traffic.of("").presence.misses += 5
    first, second = node.changes(), node.changes()
    assert first["node/"] == {"calls": 3}
    assert first["instance/"] == {
        "hits": 2, "misses": 0, "present": 0, "absent": 5, "in-bytes": 0, "out-bytes": 0,
    }  # fmt: skip
    assert not any(any(counts.values()) for counts in second.values())


def test_a_counter_that_began_anew_is_counted_from_zero() -> None:
    node = Watched()
    node.peers = [{"name": "tokyo", "sent-objects": 9, "sent-bytes": 90, "present-bytes": 1}]
    node.changes()
    node.peers = [{"name": "tokyo", "sent-objects": 2, "sent-bytes": 95, "present-bytes": 1}]
    assert node.changes()["peer/tokyo"] == {"sent-objects": 2, "sent-bytes": 5, "saved-bytes": 0}


def test_what_readers_got_without_the_link_is_saved_on_the_first_one() -> None:
    node = Watched("hq", "mirror")
    for name in node.upstreams:
        node.metrics.upstream_answers.labels(upstream=name, result="hit").inc()
    node.metrics.traffic.named("main").out_bytes += 1000
    node.metrics.remote_bytes.labels(remote="hq", direction="in").inc(300)
    node.metrics.remote_bytes.labels(remote="mirror", direction="in").inc(100)
    changes = node.changes()
    assert changes["upstream/hq"] == {
        "hits": 1, "misses": 0, "received-bytes": 300, "saved-bytes": 600,
    }  # fmt: skip
    assert changes["upstream/mirror"]["received-bytes"] == 100
    assert "saved-bytes" not in changes["upstream/mirror"]


def test_what_a_prefetch_brought_is_saved_only_once_it_is_read() -> None:
    node = Watched("hq")
    node.metrics.upstream_answers.labels(upstream="hq", result="hit").inc()
    node.metrics.remote_bytes.labels(remote="hq", direction="in").inc(500)
    assert node.changes()["upstream/hq"]["saved-bytes"] == -500
    node.metrics.traffic.of("").out_bytes += 700
    assert node.changes()["upstream/hq"]["saved-bytes"] == 700


def test_without_an_upstream_there_is_no_link_to_save_on() -> None:
    node = Watched()
    node.metrics.traffic.of("").out_bytes += 700
    assert not any(series.startswith("upstream/") for series in node.changes())
