"""A benchmark, or a test run, that is killed leaves no server behind."""

from __future__ import annotations

import subprocess
import sys

_STARTS_AND_DIES = """
import os, signal, subprocess
from tests.support.guard import guarded
server = subprocess.Popen(guarded(["sh", "-c", "echo; exec sleep 600"]), stdout=subprocess.PIPE)
server.stdout.readline()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_ends_with_the_process_that_started_it() -> None:
    # Standard error is open in both: it ends when both have ended.
    ended = subprocess.run(
        [sys.executable, "-c", _STARTS_AND_DIES], capture_output=True, timeout=60, check=False
    )
    assert ended.returncode < 0
    assert int(ended.stdout) > 0
