"""Runs a node as its configuration says: in this process, or in several that this one watches.

What serves is loaded only here and now: it is most of the program, and takes the better part of a
second that no other command should cost.
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
