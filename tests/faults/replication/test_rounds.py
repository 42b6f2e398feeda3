"""A few rounds of what `python -m tests.faults.replication.rounds` does a hundred of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.replication.rounds import Rounds

SEED = 20261124
_LONGEST_S = 1500


def test_r16_random_faults_under_continuous_writes_lose_nothing(tmp_path: Path) -> None:
    result = Rounds(tmp_path / "mesh", SEED).run(4, lambda _: None)
    print(result.summary())  # noqa: T201 - shown when it fails, with the seed
    assert result.rounds == 4
    assert result.shared_writes > 0


@pytest.mark.heavy
@pytest.mark.timeout(_LONGEST_S + 60)
def test_five_nodes_with_clocks_disks_and_settings_that_change_lose_nothing(
    tmp_path: Path,
) -> None:
    args = ["--nodes", "5", "--minutes", "3", "--seed", str(SEED), "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.replication.rounds", *args],
        capture_output=True,
        text=True,
        timeout=_LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rounds  " in done.stdout
