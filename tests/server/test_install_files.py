"""The files of install/ fit the program: its configurations, paths and ports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.config.file import load, loads
from federation.config.model import Config
from federation.config.types import parse_address

INSTALL = Path(__file__).parents[2] / "install"
KUBERNETES = list(yaml.safe_load_all((INSTALL / "kubernetes/node.yaml").read_text()))
PAGES = {"/healthz", "/readyz"}


def of_kind(kind: str) -> Any:
    (found,) = (each for each in KUBERNETES if each["kind"] == kind)
    return found


def pod() -> Any:
    return of_kind("StatefulSet")["spec"]["template"]["spec"]


def configured() -> Config:
    return loads(of_kind("ConfigMap")["data"]["federation.yaml"], Path("/etc/federation/x"), {})


def ports_of(config: Config) -> set[int]:
    assert config.http.address is not None
    addresses = [config.http.address, *(each.address for each in config.listeners)]
    return {parse_address(each).port for each in addresses}


@pytest.mark.parametrize("name", ["container.yaml", "federation.yaml"])
def test_the_configurations_are_valid(name: str) -> None:
    load(INSTALL / name)


def test_the_container_exposes_what_its_configuration_serves() -> None:
    text = (INSTALL / "Containerfile").read_text()
    (exposed,) = re.findall(r"^EXPOSE (.*)$", text, re.MULTILINE)
    config = load(INSTALL / "container.yaml")
    assert set(map(int, exposed.split())) == ports_of(config)
    assert f"VOLUME {config.data_dir}" in text
    assert f"{config.http.address}".replace("0.0.0.0", "127.0.0.1") + "/readyz" in text
    assert re.search(r"^USER [1-9]\d*:", text, re.MULTILINE), "a number: runAsNonRoot checks it"


def test_the_pod_probes_pages_that_there_are_on_ports_that_are_served() -> None:
    (container,) = pod()["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert set(ports.values()) == ports_of(configured())
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = container[kind]["httpGet"]
        assert probe["path"] in PAGES
        assert ports[probe["port"]] == 8981
    # A node whose disk is in trouble is not ready, and a restart would not help it.
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_pod_has_time_to_drain_and_writes_to_its_volumes_alone() -> None:
    (container,) = pod()["containers"]
    assert pod()["terminationGracePeriodSeconds"] >= configured().limits.drain + 10 + 10
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod()["securityContext"]["runAsNonRoot"] is True
    writable = {each["mountPath"] for each in container["volumeMounts"] if "readOnly" not in each}
    assert writable == {str(configured().data_dir), "/tmp"}


def test_budget_and_service_select_the_pod() -> None:
    labels = of_kind("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("Service")["spec"]["selector"] == labels
