"""The parts of workers that need no process: delays, ports, orders, shares."""

import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from federation.config.model import Config
from federation.config.types import parse_address
from federation.core.errors import CannotStart
from federation.server.passed_sockets import PassedSockets
from federation.server.worker_slot import WorkerSlot
from federation.server.workers.control import Control, encode_orders
from federation.server.workers.ports import KeptPorts
from federation.server.workers.supervisor import RestartBackoff

Pair = tuple[socket.socket, Control]  # the parent's end, and the worker's


def test_a_worker_that_keeps_dying_is_started_ever_later() -> None:
    backoff = RestartBackoff()
    delays = [backoff.next_delay_s(ran_s=1) for _ in range(9)]
    assert delays[:4] == [0.5, 1, 2, 4]
    assert delays[-1] == 30


def test_one_that_ran_well_is_started_soon_again() -> None:
    backoff = RestartBackoff()
    for _ in range(5):
        backoff.next_delay_s(ran_s=1)
    assert backoff.next_delay_s(ran_s=3600) == 0.5


@pytest.fixture
async def kept() -> AsyncIterator[KeptPorts]:
    ports = KeptPorts()
    yield ports
    ports.close()


async def test_a_port_that_was_picked_can_be_shared_and_only_that_way(kept: KeptPorts) -> None:
    await kept.take(["127.0.0.1:0", "[::1]:0"], PassedSockets())
    first, second = kept.addresses
    assert first.port > 0
    assert second.port > 0
    with socket.socket() as worker, socket.socket() as stranger:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind((first.host, first.port))
        with pytest.raises(OSError, match="in use"):
            stranger.bind((first.host, first.port))


async def test_a_port_that_another_program_shares_is_refused_and_nothing_is_kept(
    kept: KeptPorts,
) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = probe.getsockname()[1]
        with pytest.raises(CannotStart, match="in use; stop the program"):
            await kept.take([f"127.0.0.1:{free}", f"127.0.0.1:{taken}"], PassedSockets())
        socket.create_server(("127.0.0.1", free)).close()


async def test_sockets_of_the_service_manager_are_handed_on(kept: KeptPorts) -> None:
    given = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{given.getsockname()[1]}"
    await kept.take([address, "127.0.0.1:0"], PassedSockets([("web", given)]))
    assert kept.passed == [given]
    assert kept.addresses[0] == parse_address(address)


@pytest.fixture
def pair() -> Iterator[Pair]:
    parent, worker = socket.socketpair()
    with parent, worker:
        yield parent, Control(worker)


def test_orders_arrive_as_they_were_given(pair: Pair, tmp_path: Path) -> None:
    parent, control = pair
    config = Config(data_dir=tmp_path, workers=3)
    slot = WorkerSlot(2, 3, (1234,), "127.0.0.1:80", 77)
    parent.sendall(encode_orders(config, Path("/etc/node.yaml"), slot, [], again=True))
    orders = control.read_orders()
    assert orders is not None
    assert (orders.config, orders.slot) == (config, slot)
    assert (orders.file, orders.again) == (Path("/etc/node.yaml"), True)


def test_orders_of_a_parent_from_before_an_upgrade_are_understood(
    pair: Pair, tmp_path: Path
) -> None:
    """It starts the new program where a worker has died."""
    parent, control = pair
    text = (
        f'{{"config": {{"data-dir": "{tmp_path}"}}, "file": null, '
        '"share": [2, 3, [1234], "127.0.0.1:80", 77], "descriptors": [], "again": true}\n'
    )
    parent.sendall(text.encode())
    orders = control.read_orders()
    assert orders is not None
    assert (orders.config, orders.file) == (Config(data_dir=tmp_path), None)
    assert orders.slot == WorkerSlot(2, 3, (1234,), "127.0.0.1:80", 77)
    assert orders.again


@pytest.mark.parametrize("said", [b"", b'{"config": '])
def test_a_parent_that_ends_before_its_orders_gives_none(pair: Pair, said: bytes) -> None:
    parent, control = pair
    parent.sendall(said)
    parent.close()
    assert control.read_orders() is None


def test_what_a_worker_says_to_a_parent_that_is_gone_is_lost(pair: Pair) -> None:
    parent, control = pair
    control.send(serving={"http": None})
    assert json.loads(parent.recv(1000)) == {"serving": {"http": None}}
    parent.close()
    control.send(serving={"http": None})


def test_a_share_of_one_changes_nothing() -> None:
    alone = WorkerSlot()
    assert alone.alone
    assert (alone.port(0, 0), alone.part(100)) == (0, 100)


def test_a_share_has_its_partand_the_common_ports() -> None:
    slot = WorkerSlot(2, 4, (5000, 6000))
    assert (slot.port(1, 0), slot.part(100)) == (6000, 25)
