"""Ten peers at once: clients are served beside them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.faults.replication.stub import Stub
from tests.faults.replication.work import name_all, push
from tests.support.polling import wait_until
from tests.support.process import serve
from tests.support.process_client import Client

PEERS = 10


def pushes(address: str, label: str, count: int) -> list[float]:
    """Push small blobs now and then; returns the seconds that each took."""
    # In another process: the peers are in this one, and keep its interpreter busy.
    command = [sys.executable, "-m", "tests.faults.replication.pusher", address, label, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200)
    took: list[float] = json.loads(done.stdout)
    return took


@contextmanager
def giving_way() -> Iterator[None]:
    """Let other processes have the processor first, as if the peers had machines of their own."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    _give_way(10)
    try:
        yield
    finally:
        _give_way(before)


def _give_way(niceness: int) -> None:
    for thread in Path("/proc/self/task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(thread.name), niceness)


def beside_ten_peers(
    folder: Path, backlog: int, count: int, *, gives_way: bool = False
) -> tuple[list[float], list[float]]:
    """Push with ten peers that have all, and while all of them catch up; times of each."""
    with ExitStack() as stack:
        stubs = [stack.enter_context(Stub()) for _ in range(PEERS)]
        peers = [
            {"name": f"peer-{number}", "url": f"grpc://{stub.fake.address}"}
            for number, stub in enumerate(stubs)
        ]
        node = stack.enter_context(serve(folder / "data", {"peers": peers}))
        with Client(node.address) as client:
            idle = pushes(node.address, "idle", count)
            for stub in stubs:
                stub.stop()
            digests = push(client, "backlog", backlog)
            name_all(client, "backlog", digests[:500], each=50)
            for stub in stubs:
                stub.start()
            with giving_way() if gives_way else nullcontext():
                beside = pushes(node.address, "beside", count)
        wanted = {*digests}
        for stub in stubs:
            wait_until(
                lambda: wanted <= stub.fake.blobs.keys(),  # noqa: B023
                "everybody has everything",
                timeout_s=90,
            )
            wait_until(
                lambda: len(stub.fake.results) == len(stub.fake.assets) == 10,  # noqa: B023
                "and the names",
                timeout_s=90,
            )
        return idle, beside


def test_r27_ten_peers_get_everything_and_clients_are_served(tmp_path: Path) -> None:
    _, beside = beside_ten_peers(tmp_path, 500, 50)
    assert max(beside) < 10  # nobody's push waits for a peer


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_r27_ten_peers_at_most_double_what_a_push_takes(tmp_path: Path) -> None:
    """Needs root: the peers are in the test's process, which takes no core from the node."""
    idle, beside = beside_ten_peers(tmp_path, 6000, 600, gives_way=True)
    p99 = [statistics.quantiles(each, n=100)[98] for each in (idle, beside)]
    assert p99[1] <= 2 * p99[0], p99
