"""A few rounds of what `python -m tests.faults.replication.rounds` does a hundred of."""

from __future__ import annotations

from pathlib import Path

from tests.faults.replication.rounds import Rounds

SEED = 20261124


def test_r16_random_faults_under_continuous_writes_lose_nothing(tmp_path: Path) -> None:
    result = Rounds(tmp_path, SEED, 3).run(4, lambda _: None)
    print(result.summary())  # noqa: T201 - shown when it fails, with the seed
    assert result.rounds == 4
    assert result.shared_writes > 0
