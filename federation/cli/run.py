"""Runs a node as its configuration says: in this process, or in several that this one watches."""

from __future__ import annotations

from pathlib import Path

from federation.cli.run_node import Ready, run_node
from federation.cli.run_workers import run_workers
from federation.config import Config


def run(config: Config, ready: Ready, file: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; see run_node and run_workers."""
    if config.workers > 1:
        run_workers(config, ready, file)
    else:
        run_node(config, ready, file)
