"""The alert rules are rules, and every metric that they look at is one that a node has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.config.types import parse_duration
from federation.observability.peer_metrics import STATES
from tests.server.exposed import SCRAPED, base, exposed_labels

GROUPS = yaml.safe_load((Path(__file__).parents[2] / "docs/alerts.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    return exposed_labels(tmp_path_factory.mktemp("node"))


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
    labels: dict[str, set[str]], rule: dict[str, Any]
) -> None:
    named = {base(name, labels) for name in re.findall(r"federation_\w+", rule["expr"])}
    assert named
    assert named <= set(labels), "no such metric"
    matched = set(re.findall(r"(\w+)=~?\"", rule["expr"]))
    told = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert matched <= set().union(*(labels[name] for name in named))
    for name in named:
        assert told <= labels[name] | SCRAPED


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_waits_for_states_that_there_are(rule: dict[str, Any]) -> None:
    for states in re.findall(r'state=~?"([^"]+)"', rule["expr"]):
        assert set(states.split("|")) <= set(STATES)


def test_names_are_given_once() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
