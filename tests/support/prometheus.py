"""A real Prometheus in a folder of its own, which scrapes what a test runs.

with prometheus(folder, [node.http], rules=Path("docs/alerts.yaml")) as server:
    answer = server.query("up")
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.guard import guarded
from tests.support.polling import wait_until

EVERY_S = 1
_INSTALLED = Path(os.environ.get("FEDERATION_SERVERS", Path.home() / ".cache/federation-servers"))


def program(name: str) -> str:
    """Return where prometheus or promtool is. Raises AssertionError: it is not installed."""
    path = _INSTALLED / "prometheus/usr/bin" / name
    assert path.exists(), f"no {name} here: run tests/servers/install"
    return str(path)


class Prometheus:
    """One server that runs."""

    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, text: str) -> dict[str, Any]:
        """Return the answer to a query at this moment: status, data, warnings, error."""
        return self.get("query", query=text)

    def get(self, page: str, **parameters: str) -> dict[str, Any]:
        """Return what a page of its API says."""
        url = f"http://{self._address}/api/v1/{page}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                found = json.load(error)
        return found


@contextmanager
def prometheus(folder: Path, targets: Sequence[str], rules: Path) -> Iterator[Prometheus]:
    """Run one until the block ends; targets: host:port of each page /metrics."""
    shutil.copy(rules, folder / "rules.yaml")
    configuration = {
        "global": {"scrape_interval": f"{EVERY_S}s", "evaluation_interval": f"{EVERY_S}s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "federation", "static_configs": [{"targets": [*targets]}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    log_path = folder / "prometheus.log"
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'series'}",
        "--web.listen-address=127.0.0.1:0",
        "--log.format=json",
    ]
    with log_path.open("wb") as log:
        process = subprocess.Popen(guarded(command), stdout=log, stderr=log, cwd=folder)
    try:
        address = wait_until(lambda: _address(log_path), "prometheus listens")
        wait_until(lambda: _is_ready(address), "prometheus is ready")
        yield Prometheus(address)
    finally:
        process.kill()
        process.wait()


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=60) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        with error:
            return False  # it reads what it has stored


def _address(log: Path) -> str | None:
    for line in log.read_text().splitlines():
        facts = json.loads(line)
        if facts.get("msg") == "Listening on":
            return str(facts["address"])
    return None
