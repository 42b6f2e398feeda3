"""Free disk is kept as the operator says: never a byte less than one, and up to the other."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from federation.core.digest import digest_of
from tests.faults.storage.disks import fill
from tests.support.polling import wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client, outcome

MIB = 2**20
MIN_BYTES, MAX_BYTES = 16 * MIB, 28 * MIB
BLOB_BYTES = MIB // 2
ENOUGH_BYTES = MAX_BYTES - MIB  # the catalogue's own log may have grown since eviction looked
KEYS = {"reserve": MIN_BYTES, "reserve-max": MAX_BYTES, "lease": "500ms", "scrub": {"rate": 0}}
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


def free_bytes(disk: Path) -> int:
    facts = os.statvfs(disk)
    return facts.f_bavail * facts.f_frsize


@pytest.fixture
def node(small_disk: Path, tmp_path: Path) -> Iterator[Node]:
    with serve(small_disk / "data", {"storage": KEYS}, files_dir=tmp_path) as node:
        yield node


def write_until_full(client: Client, disk: Path, bits: random.Random) -> tuple[int, int]:
    """Write until a write is refused; return how many were taken, and the least free disk seen."""
    least, taken = free_bytes(disk), 0
    while outcome(lambda: client.write(bits.randbytes(BLOB_BYTES))) is not FULL:
        least, taken = min(least, free_bytes(disk)), taken + 1
        if taken > 200:
            break
    return taken, min(least, free_bytes(disk))


def test_the_minimum_is_never_touched_and_cleaning_up_reaches_the_maximum(
    node: Node, small_disk: Path
) -> None:
    bits = random.Random(1)
    with Client(node.address) as client:
        for _ in range(2):
            _, least = write_until_full(client, small_disk, bits)
            assert least >= MIN_BYTES
            wait_until(lambda: free_bytes(small_disk) >= ENOUGH_BYTES, "the maximum")
            assert free_bytes(small_disk) < MAX_BYTES + 8 * MIB, "more was evicted than asked for"


def test_what_others_write_is_made_room_for(node: Node, small_disk: Path) -> None:
    bits = random.Random(2)
    with Client(node.address) as client:
        for _ in range(20):
            client.write(bits.randbytes(BLOB_BYTES))
        others = fill(small_disk, leave_bytes=MIN_BYTES // 2)
        assert outcome(lambda: client.write(bits.randbytes(BLOB_BYTES))) is FULL
        wait_until(lambda: free_bytes(small_disk) >= MIN_BYTES, "the minimum")
        others.unlink()
        data = bits.randbytes(BLOB_BYTES)
        wait_until(lambda: outcome(lambda: client.write(data)) is not FULL, "room")
        assert client.read(digest_of(data)) == data
