"""Runs a node as configured: in this process, or in several worker processes.

The modules that serve are imported when a node is run: they are most of the program, and no other
command needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from federation.config.model import Config

if TYPE_CHECKING:
    from federation.server.run import Ready


def run(config: Config, ready: Ready, file: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; see run_node and run_workers."""
    if config.workers > 1:
        from federation.server.run_workers import run_workers  # noqa: PLC0415 - see above

        run_workers(config, ready, file)
    else:
        from federation.server.run import run_node  # noqa: PLC0415 - see above

        run_node(config, ready, file)
