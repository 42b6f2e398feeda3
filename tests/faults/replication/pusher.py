"""A client in a process of its own: python -m tests.faults.replication.pusher ADDRESS LABEL COUNT.

Pushes small blobs now and then, and prints the seconds that each push took, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

from federation.core.clock import SystemClock
from tests.faults.replication.work import noise
from tests.support.process_client import Client

_clock = SystemClock()


def _main(address: str, label: str, count: int) -> None:
    if os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, 0)  # whoever started it may give way; a client does not
    took = []
    with Client(address) as client:
        client.batch_update([noise(f"{label} before")])  # which connects
        for number in range(count):
            data = noise(f"{label} {number}")
            began_s = _clock.monotonic_s()
            client.batch_update([data])
            took.append(_clock.monotonic_s() - began_s)
            time.sleep(0.005)
    sys.stdout.write(json.dumps(took))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
