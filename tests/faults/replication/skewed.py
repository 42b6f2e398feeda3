"""`federation`, on a machine whose wall clock is wrong by WALL_CLOCK_OFFSET_S seconds.

    python -m tests.faults.replication.skewed serve --config node.yaml

Only the wall clock is: intervals go by another one that no clock step moves.
"""

from __future__ import annotations

import os
import time

from federation.cli import main
from federation.core.clock import SystemClock

VARIABLE = "WALL_CLOCK_OFFSET_S"


def _wall_s(_clock: SystemClock) -> float:
    return time.time() + float(os.environ[VARIABLE])  # noqa: TID251 - as federation.core.clock does


if __name__ == "__main__":
    setattr(SystemClock, "wall_s", _wall_s)  # noqa: B010 - it is no method to a type checker
    main(prog_name="federation")
