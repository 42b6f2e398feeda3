"""Ten peers at once: clients are served beside them."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from federation.clock import SystemClock
from tests.faults_replication.stub import Stub
from tests.faults_replication.work import name_all, noise, push
from tests.polling import wait_until
from tests.process import serve
from tests.process_client import Client

PEERS = 10
_clock = SystemClock()


def pushes(client: Client, label: str, count: int) -> list[float]:
    """Push small blobs now and then; returns the seconds that each took."""
    took = []
    for number in range(count):
        data = noise(f"{label} {number}")
        began_s = _clock.monotonic_s()
        client.batch_update([data])
        took.append(_clock.monotonic_s() - began_s)
        time.sleep(0.005)
    return took


def beside_ten_peers(folder: Path, backlog: int, count: int) -> tuple[list[float], list[float]]:
    """Push with ten peers that have all, and while all of them catch up; times of each."""
    with ExitStack() as stack:
        stubs = [stack.enter_context(Stub()) for _ in range(PEERS)]
        peers = [
            {"name": f"peer-{number}", "url": f"grpc://{stub.fake.address}"}
            for number, stub in enumerate(stubs)
        ]
        node = stack.enter_context(serve(folder / "data", {"peers": peers}))
        with Client(node.address) as client:
            idle = pushes(client, "idle", count)
            for stub in stubs:
                stub.stop()
            digests = push(client, "backlog", backlog)
            name_all(client, "backlog", digests[:500], each=50)
            for stub in stubs:
                stub.start()
            beside = pushes(client, "beside", count)
        wanted = {*digests}
        for stub in stubs:
            wait_until(
                lambda: wanted <= stub.fake.blobs.keys(),  # noqa: B023
                "everybody has everything",
                timeout_s=90,
            )
            assert len(stub.fake.results) == len(stub.fake.assets) == 10
        return idle, beside


def test_r27_ten_peers_get_everything_and_clients_are_served(tmp_path: Path) -> None:
    _, beside = beside_ten_peers(tmp_path, 500, 50)
    assert max(beside) < 10  # nobody's push waits for a peer


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_r27_ten_peers_at_most_double_what_a_push_takes(tmp_path: Path) -> None:
    """Needs a machine with cores to spare: the peers are in the test's process."""
    idle, beside = beside_ten_peers(tmp_path, 5000, 400)
    p99 = [statistics.quantiles(each, n=100)[98] for each in (idle, beside)]
    assert p99[1] <= max(2 * p99[0], 0.05), p99
