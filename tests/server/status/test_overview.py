"""The eight lines, and what is said to need attention."""

from typing import Any

import pytest

from federation.observability.statistics.history import History
from federation.observability.statistics.report import report
from federation.server.status.facts import together
from federation.server.status.overview import OverviewLine, overview

NOW_S = 1_800_000_000.0
STARTED = "2027-01-14T08:00:00+00:00"  # a day before

SUMMARY = {
    "data-dir": "/data",
    "blobs": 1200,
    "entries": 1,
    "held-bytes": 3 * 2**30,
    "quota-bytes": 4 * 2**30,
    "quarantine": {"blobs": 0, "newest": []},
    "peers": [],
}
UPSTREAM = {"name": "hq", "state": "up", "failures": 0, "failures-max": 5, "last-error": None}
PROCESS = {
    "pid": 7,
    "node": "paris",
    "version": "1.0",
    "status": "serving",
    "started-at": STARTED,
    "requests-per-s": 41.25,
    "upstreams": [UPSTREAM],
}
LABELS = [
    "node", "uptime", "held", "hit rate", "requests", "upstreams", "peers", "attention",
]  # fmt: skip


def history() -> History:
    found = History()
    found.add({"instance/": {"hits": 93, "misses": 7, "out-bytes": 2**20}}, NOW_S)
    found.add({"instance/": {"hits": 7, "misses": 893}}, NOW_S - 7200)
    found.add({"upstream/hq": {"saved-bytes": 2**19}}, NOW_S)
    return found


def lines(*processes: dict[str, Any], **summary: Any) -> dict[str, OverviewLine]:
    more = {"statistics": report(history(), NOW_S)}
    facts = together({**SUMMARY, **summary}, processes or [PROCESS], None, more)
    found = overview(facts, NOW_S)
    assert [line.label for line in found] == LABELS
    return {line.label: line for line in found}


def test_a_healthy_node_is_told_in_eight_lines_without_a_worry() -> None:
    found = lines()
    assert [line.text for line in found.values()] == [
        "paris 1.0, serving (pid 7)",
        "1.0d",
        "3.0G of 4.0G, 75 %; 1,200 blobs, 1 entry",
        "93 % in the last hour, 10 % of 1,000 look-ups in the last day; 1.0M served, 512.0K saved",
        "41.2 a second",
        "hq up",
        "none",
        "nothing",
    ]
    assert all(line.fine for line in found.values())


def test_workers_are_one_node() -> None:
    other = {**PROCESS, "pid": 8, "requests-per-s": 8.75, "started-at": "2027-01-15T07:00:00+00:00"}
    found = lines(PROCESS, other)
    assert found["node"].text == "paris 1.0, serving (2 processes)"
    assert found["uptime"].text == "1.0d"
    assert found["requests"].text == "50.0 a second"


def test_a_node_that_is_not_running_shows_what_is_stored() -> None:
    facts = together(SUMMARY, [], None, {})
    found = {line.label: line for line in overview(facts, NOW_S)}
    assert found["node"].text == "not running; /data"
    assert not found["node"].fine
    assert found["held"].text.startswith("3.0G of 4.0G")
    assert found["attention"].text == "no process serves this data directory"


@pytest.mark.parametrize(
    ("state", "failures", "text", "fine"),
    [
        ("up", 0, "hq up", True),
        ("untried", 0, "hq untried", True),
        ("failing", 3, "hq failing 3 of 5", False),
        ("down", 5, "hq down", False),
    ],
)
def test_an_upstream_that_fails_is_not_called_up(
    state: str, failures: int, text: str, fine: bool
) -> None:
    upstream = {**UPSTREAM, "state": state, "failures": failures, "last-error": "no route"}
    found = lines({**PROCESS, "upstreams": [upstream]})
    assert (found["upstreams"].text, found["upstreams"].fine) == (text, fine)
    assert (found["attention"].text == "nothing") is fine
    if not fine:
        assert found["attention"].text == f"upstream hq is {state}: no route"


def test_a_peer_that_is_behind_says_by_how_much() -> None:
    peer = {
        "name": "tokyo", "state": "following", "lag-objects": 1234, "lag-bytes": 5 * 2**20,
        "lag-s": 3600.0,
    }  # fmt: skip
    found = lines(peers=[peer])
    assert found["peers"].text == "tokyo following, 1,234 objects (5.0M) behind"
    assert found["attention"].text == "peer tokyo: lacks what came 1.0h ago"


@pytest.mark.parametrize(
    ("process", "said"),
    [
        ({"status": "degraded", "reason": "disk full"}, "degraded: disk full"),
        ({"status": "draining"}, "process 7 is draining"),
        ({"not-known": "no answer within 1 s"}, "process 7 does not answer: no answer within 1 s"),
        ({"warnings": ["the certificate ends"]}, "the certificate ends"),
        ({"limits-reached": ["streams by x"]}, "a limit was reached lately: streams by x"),
        ({"offline": True}, "upstreams are not asked: the node is offline"),
        ({"reload": {"error": "a.yaml:3"}}, "the configuration was not read again: a.yaml:3"),
        ({"reload": {"needs-restart": ["workers"]}}, "wait for a restart: workers"),
    ],
)
def test_each_worry_is_told(process: dict[str, Any], said: str) -> None:
    found = lines({**PROCESS, **process})
    assert found["attention"] == OverviewLine("attention", said, fine=False)


def test_worries_are_counted_and_each_is_told_once() -> None:
    worried = {**PROCESS, "warnings": ["the certificate ends"]}
    found = lines(worried, {**worried, "pid": 8}, healing={"lost": 2})
    assert found["attention"].text == "the certificate ends (and 1 more)"


def test_pins_are_told_beside_what_is_held_and_what_they_lack_to_operators() -> None:
    pins = {"pins": 2, "bytes": 2**30, "max-bytes": 2**30, "entries": 7}
    fine = lines(pins={**pins, "incomplete-entries": 0, "entries-left-out": 0})
    assert fine["held"].text.endswith("1 entry; 1.0G pinned")
    assert fine["attention"].fine
    worried = lines(pins={**pins, "incomplete-entries": 1, "entries-left-out": 3})
    said = "3 matching entries are not pinned: pins may take 1.0G (storage.pins-max)"
    assert worried["attention"].text == f"{said}, see federation pins (and 1 more)"


def test_many_upstreams_fit_in_a_line() -> None:
    many = [{**UPSTREAM, "name": f"u{n}"} for n in range(9)]
    found = lines({**PROCESS, "upstreams": many})
    assert found["upstreams"].text.endswith("u5 up; and 3 more")


def test_storage_that_does_not_answer_leaves_the_other_lines() -> None:
    facts = together({}, [PROCESS], None, {})
    found = {line.label: line.text for line in overview(facts, NOW_S)}
    assert found["held"] == "not known: the storage does not answer"
    assert found["requests"] == "41.2 a second"
