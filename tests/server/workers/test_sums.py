"""What several processes count, as one."""

from collections.abc import Iterable, Mapping

from federation.observability.declared import Merge, MetricDeclarations
from federation.observability.exposition import exposition, parse
from federation.observability.families import Families, Family
from federation.observability.metrics import Metrics
from federation.observability.peer_metrics import peer_families
from federation.server.workers.metrics import merged, only_growing
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
