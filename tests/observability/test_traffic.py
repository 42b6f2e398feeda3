"""What callers move is counted by instance, and no caller can make the number of series grow."""

from federation.observability.exposition import exposition
from federation.observability.metrics import Metrics
from federation.observability.traffic import NAMES_MAX, OTHERS, Traffic
from tests.support.samples import Samples


def shown(metrics: Metrics) -> Samples:
    return Samples(exposition(metrics.declared.families(), with_process=True).decode())


def test_a_name_that_nothing_was_found_under_has_no_numbers_of_its_own() -> None:
    traffic = Traffic()
    traffic.of("made up").blobs.misses += 3
    assert [each.name for each in traffic] == ["", OTHERS]
    assert traffic.of("another").blobs.misses == 3


def test_a_name_that_something_is_stored_under_has_its_own_from_then_on() -> None:
    traffic = Traffic()
    traffic.named("main").action_results.hits += 1
    traffic.of("main").action_results.misses += 1
    assert dict(traffic.of("main").lookups())["action_result"].hits == 1
    assert traffic.of("main").action_results.misses == 1
    assert traffic.of("other").action_results.misses == 0


def test_names_beyond_the_bound_are_counted_together() -> None:
    traffic = Traffic()
    for number in range(2 * NAMES_MAX):
        traffic.named(f"pull-request-{number}").in_bytes += 1
    counted = {each.name: each.in_bytes for each in traffic}
    assert len(counted) == NAMES_MAX + 1
    assert counted[OTHERS] == NAMES_MAX + 1  # the empty name takes one of the places
    assert sum(counted.values()) == 2 * NAMES_MAX


def test_the_series_of_an_instance_carry_its_name() -> None:
    metrics = Metrics()
    traffic = metrics.traffic.named('a"b\n')
    traffic.out_bytes += 7
    traffic.presence.hits += 2
    found = shown(metrics)
    assert found.value("federation_blob_bytes_total", instance='a"b\n', direction="out") == 7
    labels = {"instance": 'a"b\n', "kind": "presence", "result": "hit"}
    assert found.value("federation_lookups_total", **labels) == 2


def test_the_exposition_says_what_runs_and_is_free_of_created_series() -> None:
    metrics = Metrics()
    metrics.requests.labels(method="a/B", code="OK").inc()
    text = exposition(metrics.declared.families(), with_process=True).decode()
    assert "_created" not in text
    found = Samples(text)
    assert found.value("federation_build_info") == 1
    assert found.value("process_resident_memory_bytes") > 0
    assert found.value("process_start_time_seconds") > 0
