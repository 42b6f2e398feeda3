"""What is counted, and how Prometheus reads it."""

from __future__ import annotations

import threading

import pytest

from federation.observability.declared import Merge, MetricDeclarations
from federation.observability.exposition import exposition
from federation.observability.families import Family
from federation.observability.series import Counter, Histogram, Labelled
from tests.support.samples import Samples


def scrape(declare: MetricDeclarations) -> Samples:
    return Samples(exposition(declare.families()).decode())


def test_a_counter_is_shown_from_the_moment_it_is_declared() -> None:
    declare = MetricDeclarations()
    calls = declare.counter("calls_total", "Calls")
    assert "calls_total 0.0" in exposition(declare.families()).decode()
    calls.inc()
    calls.inc(2)
    assert scrape(declare).value("calls_total") == 3


def test_a_counter_does_not_fall() -> None:
    counter = Counter()
    with pytest.raises(AssertionError):
        counter.inc(-1)
    assert counter.value == 0


def test_no_increment_of_several_threads_is_lost() -> None:
    counter, histogram = Counter(), Histogram((1,))

    def count() -> None:
        for _ in range(20_000):
            counter.inc()
            histogram.observe(1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value == 80_000
    assert histogram.buckets() == [(1, 80_000), (float("inf"), 80_000)]


def test_each_set_of_label_values_is_a_series() -> None:
    declare = MetricDeclarations()
    calls = declare.counter("calls_total", "Calls", ["method", "code"])
    calls.labels(method="Read", code="OK").inc()
    calls.labels(code="OK", method="Read").inc()
    calls.labels("Read", "OK").inc()
    calls.labels(method="Write", code="OK")
    found = scrape(declare)
    assert found.value("calls_total", method="Read", code="OK") == 3
    assert [each.value for each in calls.matching(code="OK")] == [3, 0]
    assert [each.value for each in calls.matching(method="Read")] == [3]


@pytest.mark.parametrize("values", [{}, {"method": "Read"}, {"method": "Read", "status": "OK"}])
def test_other_labels_than_the_declared_are_refused(values: dict[str, str]) -> None:
    calls = Labelled(["method", "code"], Counter)
    with pytest.raises(KeyError):
        calls.labels(**values)
    with pytest.raises(AssertionError):
        calls.labels(method="Read", code="OK", more="x")
    with pytest.raises(AssertionError):
        calls.labels("Read")
    with pytest.raises(AssertionError):
        calls.labels("Read", code="OK")
    assert calls.each() == []


def test_a_removed_series_is_shown_no_more_and_begins_anew() -> None:
    declare = MetricDeclarations()
    up = declare.gauge("up", Merge.LEAST, "Up", ["name"])
    up.labels(name="a").set(1)
    up.remove(name="a")
    up.remove(name="never-there")
    assert "up{" not in exposition(declare.families()).decode()
    assert up.labels(name="a").value == 0


def test_a_gauge_is_set_or_asked() -> None:
    declare = MetricDeclarations()
    gauge = declare.gauge("held", Merge.SAME, "Held")
    gauge.set(True)
    assert scrape(declare).value("held") == 1
    waiting = ["a", "b"]
    gauge.set_function(lambda: len(waiting))
    assert scrape(declare).value("held") == 2
    waiting.clear()
    assert scrape(declare).value("held") == 0


def test_a_bucket_has_what_is_at_most_its_bound() -> None:
    declare = MetricDeclarations()
    seconds = declare.histogram("seconds", "Time", ["method"], buckets=(0.5, 1, 2.5))
    for value in (0.1, 0.5, 0.6, 1, 2.6, 100):
        seconds.labels(method="Read").observe(value)
    found = scrape(declare)
    for bound, count in (("0.5", 2), ("1.0", 4), ("2.5", 4), ("+Inf", 6)):
        assert found.value("seconds_bucket", le=bound, method="Read") == count
    assert found.value("seconds_count", method="Read") == 6
    assert found.value("seconds_sum", method="Read") == pytest.approx(104.8)


def test_what_a_collector_makes_is_shown_with_the_rest() -> None:
    declare = MetricDeclarations()
    declare.counter("calls_total", "Calls")
    peers = Family("peers", "gauge", 'Peers, "quoted"\nand on two lines')
    peers.add(3, labels={"peer": 'a"b\\c\nd'})
    declare.collect_from(lambda: [peers])
    found = scrape(declare)
    assert found.value("peers", peer='a"b\\c\nd') == 3
    assert found.value("calls_total") == 0


def test_a_name_is_declared_once() -> None:
    declare = MetricDeclarations()
    declare.counter("calls_total", "Calls")
    with pytest.raises(AssertionError):
        declare.counter("calls_total", "Calls")
