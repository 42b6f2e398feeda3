"""Power cuts, on a disk of their own: S02, S03, S04 and the power half of S06. Root, minutes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.faults.storage.clean import assert_clean
from tests.faults.storage.disks import FLUSH_ALL, FLUSH_LOG, FLUSH_NOTHING, Disk
from tests.faults.storage.power_cut import power_cut_loop
from tests.support.oracle import Oracle
from tests.support.process import Node
from tests.support.process_client import Client

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


def _seed() -> int:
    return random.SystemRandom().randrange(2**32)


@pytest.mark.parametrize(
    ("case", "flag"), [("s02", FLUSH_NOTHING), ("s04_all", FLUSH_ALL), ("s04_log", FLUSH_LOG)]
)
def test_s02_s04_a_power_cut_loses_nothing_acknowledged(
    case: str, flag: int, tmp_path: Path
) -> None:
    result = power_cut_loop(tmp_path, 6, _seed(), flag=flag)
    assert result.blobs > 0, f"{case}: nothing was acknowledged, so nothing was tested"


def test_s03_a_disk_that_lies_about_fsync_is_caught(tmp_path: Path) -> None:
    """The control: if faked fsyncs lost nothing here, the cuts above would prove nothing."""
    with pytest.raises(AssertionError, match=r"lost or wrong|before it was ready"):
        power_cut_loop(tmp_path, 6, _seed(), lying=True)
    with Oracle(tmp_path / "acknowledged.jsonl") as oracle:
        assert oracle.blobs, "nothing was acknowledged, so nothing could be lost"


@pytest.mark.parametrize("after_s", [0.2, 0.4, 0.6, 0.8, 1.0])
def test_s06_power_cut_in_the_first_start(after_s: float, tmp_path: Path, disk: Disk) -> None:
    data_dir = disk.mount_point / "data"
    with Node(data_dir, files_dir=tmp_path).launch():
        time.sleep(after_s)
        disk.cut()
    disk.renew()
    with Node(data_dir, files_dir=tmp_path).start() as node, Client(node.address) as client:
        client.write(b"the second start succeeds")
        assert node.stop() == 0
    assert_clean(data_dir)
