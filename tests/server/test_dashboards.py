"""The dashboards for Grafana show metrics that nodes have, each by labels that it has."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from federation.observability.peer_metrics import STATES
from tests.server.exposed import SCRAPED, base, exposed_labels

FOLDER = Path(__file__).parents[2] / "docs/grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
PANELS = {f"{name}-{x['title']}": x for name, each in DASHBOARDS.items() for x in each["panels"]}
_METRIC = re.compile(r"\b(?:federation|process)_\w+")


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    return exposed_labels(tmp_path_factory.mktemp("node"))


def targets(panel: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["expr"], each["legendFormat"]) for each in panel["targets"]]


def test_the_files_are_what_the_tables_say() -> None:
    made = runpy.run_path(str(FOLDER / "generate.py"))
    written = {each.name: made["render"](each) for each in made["DASHBOARDS"]}
    assert written == {each.stem: each.read_text() for each in FOLDER.glob("*.json")}


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_no_panel_covers_another(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
def test_a_panel_looks_at_metrics_and_labels_that_there_are(
    labels: dict[str, set[str]], panel: dict[str, Any]
) -> None:
    for query, legend in targets(panel):
        named = {base(name, labels) for name in _METRIC.findall(query)}
        assert named <= set(labels), "no such metric"
        has = set().union(*(labels[name] for name in named))
        matched = set(re.findall(r"(\w+)=~?\"", query)) | set(re.findall(r"(\w+)!~?=?\"", query))
        grouped = {label for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(", ")}
        told = set(re.findall(r"{{(\w+)}}", legend))
        if named:
            assert matched <= has | SCRAPED
            assert grouped <= has | SCRAPED | {"le"}
        assert told <= (grouped or has | SCRAPED)


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
def test_a_panel_shows_the_chosen_nodes_alone(panel: dict[str, Any]) -> None:
    for query, _ in targets(panel):
        selectors = re.findall(r"[a-z_A-Z]+\{([^}]*)\}", query)
        assert selectors
        assert all(x.startswith('job=~"$job", instance=~"$instance"') for x in selectors), query
        assert len(re.findall(r"(?:federation|process)_\w+|ALERTS", query)) == len(selectors)


def test_every_metric_of_a_node_is_on_a_dashboard(labels: dict[str, set[str]]) -> None:
    shown = {
        base(name, labels)
        for panel in PANELS.values()
        for query, _ in targets(panel)
        for name in _METRIC.findall(query)
    }
    assert {name for name in labels if name.startswith("federation_")} <= shown


def test_states_that_panels_name_are_states_of_peers() -> None:
    text = str(DASHBOARDS["overview"])
    named = re.findall(r'state!?=~?"([^"$]+)"', text)
    assert set(named) <= {*STATES, "firing"}
    assert "following" in named
