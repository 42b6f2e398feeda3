"""A real Prometheus scrapes a node, and evaluates every alert and every panel on what it got."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.core.digest import digest_of
from tests.server.test_dashboards import PANELS, targets
from tests.support.certificates import self_signed
from tests.support.polling import wait_until
from tests.support.process import serve
from tests.support.process_client import Client
from tests.support.prometheus import Prometheus, program, prometheus

pytestmark = pytest.mark.servers

RULES = Path(__file__).parents[2] / "docs/alerts.yaml"
QUERIES = [
    (name, legend, query) for name, each in PANELS.items() for query, legend in targets(each)
]
# Of these a node has nothing to show while all is well, or without a bucket, workers, traces and a
# list of names to pull.
EMPTY = {
    ("limits-calls refused", "{{code}} {{method}}"),
    ("limits-fetches of keys", "{{outcome}}"),
    ("limits-keys of tokens are so old", "{{instance}} {{url}}"),
    ("limits-limits reached", "{{limit}}"),
    ("limits-spans of traces", "{{result}}"),
    ("limits-workers started again", "{{instance}}"),
    ("limits-workers", "{{instance}} {{state}}"),
    ("overview-errors", "{{method}} {{code}}"),
    ("replication-given up, forgotten", "given up for {{peer}}: {{reason}}"),
    ("replication-objects not sent", "{{peer}} {{reason}}"),
    ("storage-bucket: bytes", "{{direction}}"),
    ("storage-bucket: requests", "{{operation}} {{outcome}}"),
    ("storage-bucket: time of a request", "p50 {{operation}}"),
    ("storage-bucket: time of a request", "p99 {{operation}}"),
    ("upstreams-calls that failed", "{{remote}} {{outcome}}"),
    ("upstreams-scheduled pulls", "{{result}}"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes a node that has pulled, has waited for its peer, and shows a certificate."""
    folder = tmp_path_factory.mktemp("sites")
    shown = self_signed(folder)
    tls = {"server-cert": str(shown.certificate), "server-key": str(shown.key)}
    blob, pulled = b"pushed", b"pulled" * 50_000
    with serve(folder / "far", name="far") as far, Client(far.address) as there:
        there.write(pulled)
        there.push_blob("urn:example:pulled", digest_of(pulled))
        other = {"name": "far", "url": f"grpc://{far.address}"}
        settings = {
            "upstreams": [other],
            "peers": [other],
            "listeners": [
                {"address": "127.0.0.1:0", "push": True, "acknowledge": "one-peer"},
                {"address": "127.0.0.1:0", "tls": tls},
            ],
        }
        with (
            serve(folder / "near", settings, name="near") as near,
            Client(near.address) as here,
            prometheus(folder, [near.http], RULES) as running,
        ):
            _two_scrapes(running)
            here.write(blob)
            here.push_blob("urn:example:pushed", digest_of(blob))
            assert here.fetch_blob("urn:example:pulled") == digest_of(pulled)
            assert here.read(digest_of(pulled)) == pulled
            _two_scrapes(running)
            yield running


def _two_scrapes(server: Prometheus) -> None:
    """Wait until it has looked twice from now on."""
    scraped = 'count_over_time(up{job="federation"}[1h])'

    def looks() -> int:
        found = server.query(scraped)["data"]["result"]
        return int(found[0]["value"][1]) if found else 0

    before = looks()
    wait_until(lambda: looks() >= before + 2, "Prometheus scrapes")


def filled_in(query: str) -> str:
    """Return a panel's query as Grafana would send it for all nodes."""
    text = query.replace("$__rate_interval", "1h")
    return text.replace("$job", ".+").replace("$instance", ".+")


@pytest.mark.parametrize(
    ("name", "legend", "query"), QUERIES, ids=[f"{name}-{legend}" for name, legend, _ in QUERIES]
)
def test_a_panel_shows_something(server: Prometheus, name: str, legend: str, query: str) -> None:
    answer: dict[str, Any] = server.query(filled_in(query))
    assert answer["status"] == "success", answer
    assert "warnings" not in answer, answer
    assert bool(answer["data"]["result"]) is ((name, legend) not in EMPTY), answer


def test_every_alert_is_evaluated_without_complaint(server: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = server.get("rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), "all are evaluated")
    assert rules()
    assert {rule["name"]: rule.get("lastError") for rule in rules() if rule["health"] != "ok"} == {}
    assert [rule["name"] for rule in rules() if rule["state"] == "firing"] == []


def test_the_labels_of_a_node_are_its_own(server: Prometheus) -> None:
    found = server.query("count by (job, instance) (federation_build_info)")["data"]["result"]
    assert len(found) == 1
    exported = server.query("count by (exported_instance) (federation_lookups_total)")
    assert {each["metric"].get("exported_instance", "") for each in exported["data"]["result"]} == {
        "",
        "(other)",
    }


def test_the_tool_of_prometheus_accepts_the_rules() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "rules", str(RULES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
