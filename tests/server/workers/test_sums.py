"""What several processes count, as one."""

from collections.abc import Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)

from federation.observability.metrics import Metrics
from federation.observability.peer_metrics import PeerCollector
from federation.server.workers.metrics import (
    Families,
    Family,
    as_metrics,
    merged,
    only_growing,
    parse,
)
from tests.support.samples import Samples


def exposition(calls: Mapping[str, int], running: float, stored: float) -> str:
    registry = CollectorRegistry()
    requests = Counter("federation_requests_total", "x", ["method"], registry=registry)
    seconds = Histogram("federation_request_seconds", "x", buckets=(1, 5), registry=registry)
    for name, count in calls.items():
        requests.labels(method=name).inc(count)
        seconds.observe(count)
    Gauge("federation_requests_running", "x", registry=registry).set(running)
    Gauge("federation_stored_bytes", "x", registry=registry).set(stored)
    Gauge("federation_quota_used_bytes", "x", registry=registry).set(stored)
    Gauge("federation_upstream_up", "x", ["upstream"], registry=registry).labels("hq").set(running)
    return generate_latest(registry).decode()


class _Whole:
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return as_metrics(self._families)


def written(families: Families) -> Samples:
    registry = CollectorRegistry()
    registry.register(_Whole(families))
    return Samples(generate_latest(registry).decode())


ONE = parse(exposition({"Read": 2, "Write": 3}, running=1, stored=100))
TWO = parse(exposition({"Read": 4}, running=0, stored=90))


def add_up(parts: Iterable[Families]) -> dict[str, Family]:
    return merged(parts, Metrics().gauges)


def test_counts_and_times_are_added_up() -> None:
    found = written(add_up([ONE, TWO]))
    assert found.value("federation_requests_total", method="Read") == 6
    assert found.value("federation_requests_total", method="Write") == 3
    assert found.value("federation_request_seconds_count") == 3
    assert found.value("federation_request_seconds_bucket", le="1.0") == 0
    assert found.value("federation_request_seconds_bucket", le="5.0") == 3
    assert found.value("federation_request_seconds_sum") == 9
    assert found.value("federation_requests_running") == 1


def test_what_all_say_of_the_same_storage_is_said_once() -> None:
    found = written(add_up([ONE, TWO]))
    assert found.value("federation_stored_bytes") == 100
    assert found.value("federation_quota_used_bytes") == 100


def test_every_gauge_says_what_several_amount_to() -> None:
    metrics = Metrics()
    metrics.registry.register(PeerCollector(lambda: {"replicates-here": True, "peers": []}))
    shown = {each.name for each in metrics.registry.collect() if each.type == "gauge"}
    assert shown == metrics.gauges.keys()


def test_an_upstream_that_one_worker_does_not_ask_is_not_up() -> None:
    assert written(add_up([ONE, TWO])).value("federation_upstream_up", upstream="hq") == 0


def test_of_a_process_that_has_ended_only_what_grows_is_kept() -> None:
    found = written(add_up([only_growing(ONE), TWO]))
    assert found.value("federation_requests_total", method="Read") == 6
    assert found.value("federation_requests_running") == 0
    assert found.value("federation_stored_bytes") == 90


def test_what_is_written_is_read_the_same_again() -> None:
    registry = CollectorRegistry()
    registry.register(_Whole(ONE))
    again = parse(generate_latest(registry).decode())
    assert {name: f.values for name, f in again.items()} == {n: f.values for n, f in ONE.items()}


def test_nothing_is_nothing() -> None:
    assert add_up([]) == {}
