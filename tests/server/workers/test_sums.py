"""What several processes count, as one."""

from collections.abc import Iterable, Mapping

from federation.core.clock import ManualClock
from federation.observability.declared import Merge, MetricDeclarations
from federation.observability.exposition import exposition, parse
from federation.observability.families import Families, Family
from federation.observability.metrics import Metrics
from federation.observability.peer_metrics import peer_families
from federation.observability.rate_limits import LimitHits
from federation.server.workers.metrics import merged, only_growing
from federation.server.workers.pages import AggregatedPages
from federation.server.workers.supervisor import Supervisor
from tests.support.samples import Samples


def shown(calls: Mapping[str, int], running: float, stored: float) -> str:
    declare = MetricDeclarations()
    requests = declare.counter("federation_requests_total", "x", ["method"])
    seconds = declare.histogram("federation_request_seconds", "x", buckets=(1, 5))
    for name, count in calls.items():
        requests.labels(method=name).inc(count)
        seconds.observe(count)
    for gauge in ("federation_requests_running", "federation_upstream_up"):
        declare.gauge(gauge, Merge.SUM, "x", ["upstream"]).labels(upstream="hq").set(running)
    for gauge in ("federation_stored_bytes", "federation_quota_used_bytes"):
        declare.gauge(gauge, Merge.SAME, "x").set(stored)
    return exposition(declare.families()).decode()


def written(families: Families) -> Samples:
    return Samples(exposition(families.values()).decode())


ONE = parse(shown({"Read": 2, "Write": 3}, running=1, stored=100))
TWO = parse(shown({"Read": 4}, running=0, stored=90))


def add_up(parts: Iterable[Families]) -> dict[str, Family]:
    return merged(parts, Metrics().declared.gauges)


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
    declared = Metrics().declared
    declared.collect_from(lambda: peer_families({"replicates-here": True, "peers": []}))
    found = parse(exposition(declared.families(), with_process=True).decode())
    gauges = {each.name for each in found.values() if each.kind == "gauge"}
    assert gauges == declared.gauges.keys()


def test_an_upstream_that_one_worker_does_not_ask_is_not_up() -> None:
    assert written(add_up([ONE, TWO])).value("federation_upstream_up", upstream="hq") == 0


def test_of_a_process_that_has_ended_only_what_grows_is_kept() -> None:
    found = written(add_up([only_growing(ONE), TWO]))
    assert found.value("federation_requests_total", method="Read") == 6
    assert found.value("federation_requests_running") == 0
    assert found.value("federation_stored_bytes") == 90


def test_what_is_written_is_read_the_same_again() -> None:
    again = parse(exposition(ONE.values()).decode())
    assert {name: f.values for name, f in again.items()} == {n: f.values for n, f in ONE.items()}


def test_nothing_is_nothing() -> None:
    assert add_up([]) == {}


async def test_what_the_parent_counts_is_in_the_sum_and_its_zeros_are_not() -> None:
    """It serves HTTP for all, with a certificate of its own."""
    clock, metrics = ManualClock(), Metrics()
    supervisor = Supervisor(0, lambda _number, _again: b"", [], clock, lambda _worker: None)
    pages = AggregatedPages(supervisor, {}, metrics, clock)
    worker = Metrics()
    worker.access.certificate_end.labels(listener="a:1").set(3e9)
    worker.limits_hit.labels(limit="http.connections").inc(2)
    worker.access.keys_given.labels(url="https://a").set(2e9)
    pages._last[1] = parse(exposition(worker.declared.families()).decode())
    metrics.access.certificate_end.labels(listener="http").set(1e9)
    metrics.access.keys_given.labels(url="https://a").set(0.0)
    LimitHits(metrics, clock).hit("http.connections", "address 192.0.2.1")
    found = Samples((await pages.exposition()).decode())
    ends = "federation_server_certificate_expiry_timestamp_seconds"
    assert found.value(ends, listener="a:1") == 3e9
    assert found.value(ends, listener="http") == 1e9
    assert found.value("federation_limits_hit_total", limit="http.connections") == 3
    assert found.value("federation_jwt_keys_timestamp_seconds", url="https://a") == 2e9
