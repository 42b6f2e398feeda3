"""What the statistics count, keep and forget."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.observability.statistics.history import History, HistoryDamaged, Period
from federation.observability.statistics.report import report

NOON_S = 1_800_000_000.0
DAY_S = 86_400


def with_hits(*at_s: float) -> History:
    history = History()
    for each in at_s:
        history.add({"instance/main": {"hits": 1}}, each)
    return history


def hits(history: History, window: Period, wall_s: float = NOON_S) -> int:
    return history.total(window, wall_s).get("instance/main", {}).get("hits", 0)


@pytest.mark.parametrize(
    ("age_s", "within"),
    [
        (0, {Period.HOUR, Period.DAY, Period.MONTH}),
        (59 * 60, {Period.HOUR, Period.DAY, Period.MONTH}),
        (61 * 60, {Period.DAY, Period.MONTH}),
        (23 * 3600, {Period.DAY, Period.MONTH}),
        (25 * 3600, {Period.MONTH}),
        (29 * DAY_S, {Period.MONTH}),
        (31 * DAY_S, set()),
    ],
)
def test_each_window_has_what_happened_in_it(age_s: float, within: set[Period]) -> None:
    history = with_hits(NOON_S - age_s)
    assert {window for window in Period if hits(history, window)} == within


def test_a_year_of_counting_takes_no_more_room_than_a_month() -> None:
    history = with_hits(*(NOON_S + day * DAY_S + 61 * day for day in range(365)))
    year = len(history.to_text())
    assert year < 2 * len(with_hits(*(NOON_S + n * DAY_S for n in range(160))).to_text())
    kept = json.loads(history.to_text())
    assert all(len(kept[window.label]) <= window.count + 1 for window in Period)


def test_a_clock_that_is_ahead_for_a_moment_costs_no_history() -> None:
    history = with_hits(NOON_S - 120, NOON_S + 400 * DAY_S, NOON_S - 60)
    assert hits(history, Period.HOUR) == 2


def test_too_many_series_are_left_out_rather_than_kept() -> None:
    history = History()
    history.add({f"instance/{n}": {"hits": 1} for n in range(1000)}, NOON_S)
    assert len(history.total(Period.HOUR, NOON_S)) == 256


counts = st.dictionaries(
    st.sampled_from(["hits", "saved-bytes"]), st.integers(-(2**40), 2**40), max_size=2
)
changes = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(["node/", "instance/", 'instance/a/"\n']), counts),
        st.integers(0, 40 * DAY_S).map(lambda ago: NOON_S - ago),
    ),
    max_size=20,
)


@given(changes, changes)
def test_files_of_several_processes_add_up_to_those_of_one(
    ours: list[tuple[dict[str, dict[str, int]], float]],
    theirs: list[tuple[dict[str, dict[str, int]], float]],
) -> None:
    both, mine, other = History(), History(), History()
    for change in ours:
        both.add(*change)
        mine.add(*change)
    for change in theirs:
        both.add(*change)
        other.add(*change)
    merged = History.of_text(mine.to_text())
    merged.merge(History.of_text(other.to_text()))
    for window in Period:
        assert merged.total(window, NOON_S) == both.total(window, NOON_S)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2}',
        '{"version": 1, "hour": {}, "day": {}}',
        '{"version": 1, "hour": {"x": {}}, "day": {}, "month": {}}',
        '{"version": 1, "hour": {"1": []}, "day": {}, "month": {}}',
        '{"version": 1, "hour": {"1": {"node/": {"calls": "1"}}}, "day": {}, "month": {}}',
        '{"version": 1, "hour": {"1": {"node/": {"calls": 1e400}}}, "day": {}, "month": {}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_text_is_refused_as_such(text: str) -> None:
    with pytest.raises(HistoryDamaged):
        History.of_text(text)


def test_a_course_has_empty_buckets_and_sums_the_instances() -> None:
    history = History()
    history.add({"instance/a": {"hits": 1}, "instance/b": {"hits": 2}, "node/": {"calls": 9}}, 6000)
    course = history.course(Period.DAY, "instance", 7200)
    assert len(course) == Period.DAY.count
    assert [(point.start_s, point.counts) for point in course[-3:]] == [
        (6000, {"hits": 3}),
        (6600, {}),
        (7200, {}),
    ]


def test_the_report_has_the_whole_and_its_parts_the_busiest_first() -> None:
    history = History()
    history.add(
        {
            "node/": {"calls": 7},
            "instance/": {"hits": 1, "misses": 1, "out-bytes": 10},
            "instance/main": {"hits": 2, "out-bytes": 20},
            "upstream/hq": {"received-bytes": 5, "saved-bytes": 25},
            "upstream/cold": {"saved-bytes": -5},
            "peer/tokyo": {"sent-objects": 1, "sent-bytes": 3, "saved-bytes": 4},
        },
        NOON_S,
    )
    hour = report(history, NOON_S)["hour"]
    assert (hour["requests"], hour["hit-rate"], hour["out-bytes"]) == (7, 0.75, 30)
    assert hour["saved-bytes"] == 29
    assert [each["name"] for each in hour["instances"]] == ["main", ""]
    assert [(each["name"], each["saved-bytes"]) for each in hour["upstreams"]] == [
        ("hq", 25),
        ("cold", 0),
    ]
    assert report(History(), NOON_S)["month"]["hit-rate"] is None
