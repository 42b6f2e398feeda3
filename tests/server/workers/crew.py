"""A node with several workers as a process, seen from its parent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.polling import wait_until
from tests.support.process import Node, merged

SETTINGS = {"workers": 2, "log": {"format": "json"}}


class CrewNode(Node):
    """Signals and /metrics go to the parent; it counts as started once all workers serve."""

    def __init__(self, data_dir: Path, settings: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(data_dir, merged(SETTINGS, settings or {}), **kwargs)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what was logged under this name, oldest first."""
        lines = [line for line in self.log.splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def workers(self) -> list[dict[str, Any]]:
        """Return what each serving worker has announced, by its number."""
        found = []
        for path in self.data_dir.glob("run/*.json"):
            try:
                found.append(json.loads(path.read_text()))
            except (OSError, ValueError):
                continue  # one that is just ending
        return sorted(found, key=lambda facts: facts["worker"])

    def wait_for_workers(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many serve."""

        def serve() -> bool:
            return self.metrics().value("federation_workers", state="serving") == count

        wait_until(serve, f"{count} workers to serve")
        return self.workers()

    def _announced(self) -> dict[str, Any] | None:
        said = self.events("all_serving")
        if not said or self._process is None or not self.workers():
            return None
        return {**said[-1], "pid": self._process.pid}
