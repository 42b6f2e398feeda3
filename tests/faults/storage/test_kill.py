"""Killed processes: S01, S05, S06. What was acknowledged is there after the next start."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.faults.storage.clean import assert_clean
from tests.faults.storage.kill_loop import kill_loop
from tests.faults.storage.load import Load
from tests.faults.storage.strace import attached, prefix
from tests.support.oracle import Oracle
from tests.support.process import Node, serve
from tests.support.process_client import Client

# A start takes well under a second; the bound leaves room for a machine that does other things.
_START_MAX_S = 10

_STEPS = {
    "temporary file written": ("write", 3),
    "blob file made durable": ("fdatasync", 2),
    "renamed": ("rename,renameat,renameat2,link,linkat", 2),
    "folder made durable": ("fsync", 2),
    "row written": ("pwrite64", 40),
    "row committed": ("fdatasync", 6),
    "reply sent": ("sendmsg,sendto", 60),
}


def test_s01_killed_again_and_again_it_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    result = kill_loop(tmp_path, rounds=6, seed=random.SystemRandom().randrange(2**32))
    assert result.blobs > 0, "no round got as far as an acknowledged blob: nothing was tested"
    assert max(result.starts_s) < _START_MAX_S, result.starts_s


_HEAVY_STEPS = {"blob file made durable", "folder made durable", "row written"}


@pytest.mark.parametrize(
    "step",
    [pytest.param(s, marks=pytest.mark.heavy) if s in _HEAVY_STEPS else s for s in _STEPS],
)
def test_s05_killed_in_the_middle_of_a_step_it_is_all_or_nothing(
    step: str, data_dir: Path, oracle: Oracle
) -> None:
    calls, when = _STEPS[step]
    injections = [f"{call}:signal=KILL:when={when}" for call in calls.split(",")]
    with Node(data_dir) as node:
        node.start()
        with attached(node, *injections), Load(node.address, oracle, step) as load:
            assert node.wait_exit(60) == -signal.SIGKILL, "the step was never reached"
        assert not load.done.faults, load.done.faults[:5]
        node.start()
        with Client(node.address) as client:
            oracle.verify(client).check()
            oracle.verify_unacknowledged(client).check()
        assert_clean(data_dir)


@pytest.mark.parametrize(
    "call",
    [
        "mkdir:2",
        "fsync:2",
        "fallocate:1",
        "pwrite64:1",
        pytest.param("pwrite64:5", marks=pytest.mark.heavy),
        pytest.param("pwrite64:20", marks=pytest.mark.heavy),
        pytest.param("fdatasync:1", marks=pytest.mark.heavy),
        "fdatasync:2",
        "rename:1",
    ],
)
def test_s06_killed_in_its_first_start_the_second_one_succeeds(
    call: str, data_dir: Path, oracle: Oracle
) -> None:
    name, _, when = call.partition(":")
    traced = prefix(f"{name}:signal=KILL:when={when}")
    with Node(data_dir, prefix=traced) as node:
        assert node.launch().wait_exit(60) == -signal.SIGKILL, node.log_tail
    with serve(data_dir) as node:
        with Load(node.address, oracle, call) as load:
            load.wait_for_calls(10)
        with Client(node.address) as client:
            oracle.verify(client).check()
        assert node.stop() == 0
    assert_clean(data_dir)
