"""The alert rules are rules, and every metric that they look at is one that a node has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.config.types import parse_duration
from federation.observability.peer_metrics import STATES
from tests.support.polling import wait_until
from tests.support.process import serve

GROUPS = yaml.safe_load((Path(__file__).parents[2] / "docs/alerts.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
LABELS = {"instance", "job"}  # those that Prometheus adds


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every metric of a node with a peer and an upstream, with the names of its labels."""
    settings = {
        "peers": [{"name": "tokyo", "url": "grpc://127.0.0.1:1"}],
        "upstreams": [{"name": "hq", "url": "grpc://127.0.0.1:1"}],
        "listeners": [{"address": "127.0.0.1:0", "push": True, "acknowledge": "one-peer"}],
    }
    with serve(tmp_path_factory.mktemp("node") / "data", settings) as node:
        wait_until(lambda: node.metrics().value("federation_replicates") == 1, "it replicates")
        text = node.http_get("/metrics")[1]
    found: dict[str, set[str]] = {
        name: set() for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    }
    for name, labels in re.findall(r"^(federation_\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_has_what_prometheus_and_people_need(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Federation[A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description"}
    if "for" in rule:
        assert parse_duration(rule["for"]) >= 60
    for opening, closing in ("()", "[]", "{}"):
        assert rule["expr"].count(opening) == rule["expr"].count(closing)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_looks_at_metrics_that_a_node_has(
    series: dict[str, set[str]], rule: dict[str, Any]
) -> None:
    named = set(re.findall(r"federation_\w+", rule["expr"]))
    assert named
    assert named <= set(series), "no such metric"
    matched = set(re.findall(r"(\w+)=~?\"", rule["expr"]))
    told = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    with_samples = [series[name] for name in named if series[name]]
    for labels in with_samples:
        assert matched <= labels or len(named) > 1
        assert told <= labels | LABELS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_waits_for_states_that_there_are(rule: dict[str, Any]) -> None:
    for states in re.findall(r'state=~?"([^"]+)"', rule["expr"]):
        assert set(states.split("|")) <= set(STATES)


def test_names_are_given_once() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
