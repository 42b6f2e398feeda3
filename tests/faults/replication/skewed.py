"""`federation`, on a machine whose wall clock is wrong by some seconds.

    WALL_CLOCK_OFFSET_S=-3600 python -m tests.faults.replication.skewed serve --config node.yaml
    WALL_CLOCK_OFFSET_FILE=offset python -m tests.faults.replication.skewed serve --config node.yaml

The file is read at each look at the clock, so that writing another number there is a clock step.
Only the wall clock is wrong: intervals go by another one that no step moves.
What is dated too far ahead is dated anew soon.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from federation.cli import main
from federation.core.clock import SystemClock
from federation.storage.upkeep import dates_ahead

VARIABLE = "WALL_CLOCK_OFFSET_S"
FILE_VARIABLE = "WALL_CLOCK_OFFSET_FILE"
PROGRAM = (sys.executable, "-m", "tests.faults.replication.skewed", "serve")


def _offset_s() -> float:
    path = os.environ.get(FILE_VARIABLE)
    return float(os.environ[VARIABLE] if path is None else Path(path).read_text())


def _wall_s(_clock: SystemClock) -> float:
    return time.time() + _offset_s()  # noqa: TID251 - as federation.core.clock does


def run() -> None:
    """Run the command line, with the wall clock wrong."""
    setattr(SystemClock, "wall_s", _wall_s)  # noqa: B010 - it is no method to a type checker
    dates_ahead.STEADY_S = 3.0  # a test's clock is not set by the network meanwhile
    main(prog_name="federation")


if __name__ == "__main__":
    run()
