"""What decides about replication, over hundreds of short histories in a few seconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from federation.core import hops
from federation.core.digest import Digest
from federation.core.index import Stamp
from federation.replication.batch_size import BatchSize
from federation.replication.cursor import LogProgress
from federation.storage.catalogue import hlc
from tests.replication.schedules import Schedule

pytestmark = pytest.mark.slow

# About as much time for each.
SEEDS = {"one-way": 160, "pair": 140, "chain": 100, "ring3": 90, "mesh3": 60, "mesh5": 20}


@pytest.mark.parametrize("topology", SEEDS)
def test_r02_whatever_goes_wrong_all_ends_alike_and_at_rest(topology: str) -> None:
    schedules = [Schedule(seed, topology).run().check() for seed in range(SEEDS[topology])]
    assert sum(each.transfers for each in schedules) > len(schedules)


def test_r01_without_faults_no_object_goes_round() -> None:
    calm = [Schedule(seed, "mesh3") for seed in range(1000, 1060)]
    calm = [each.run().check() for each in calm if each.is_calm]
    transfers, objects = (sum(getattr(e, what) for e in calm) for what in ("transfers", "objects"))
    assert 0 < transfers <= 2 * objects * 2  # times the nodes, less one


def test_one_seed_gives_one_schedule() -> None:
    first, second = (Schedule(7, "mesh3").run() for _ in range(2))
    assert first.world.events == second.world.events
    assert (first.transfers, first.world.steps) == (second.transfers, second.world.steps)


# That it can fail


def _passes_gaps(progress: LogProgress, _first: int, last: int) -> bool:
    moved = last > progress.cursor
    progress.cursor = max(progress.cursor, last)
    return moved


def _forgets_the_way(passed: hops.Hops, node_id: str) -> hops.Hops:
    return passed._replace(via=(node_id,), origin=node_id)


def _earliest_wins(stamp: Stamp, value: bytes) -> tuple[int, str, bytes]:
    return -stamp.ticks, stamp.node, value


def _takes_all_at_once(_pace: BatchSize, digests: list[Digest], _bytes: int) -> list[list[Digest]]:
    return [digests] if digests else []


@pytest.mark.parametrize(
    ("where", "name", "broken", "shown"),
    [
        (LogProgress, "done", _passes_gaps, "which is not delivered"),
        (hops.Hops, "after", _forgets_the_way, "of what passed"),
        (hlc, "_rank", _earliest_wins, "not (Stamp"),
        (BatchSize, "cut", _takes_all_at_once, "blobs in a batch"),
    ],
)
def test_what_decides_wrongly_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    broken: Callable[..., object],
    shown: str,
) -> None:
    monkeypatch.setattr(where, name, broken)
    found = (each for seed in range(40) for each in Schedule(seed, "ring3").run().problems)
    assert any(shown in each for each in found)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("topology", SEEDS)
def test_thousands_of_schedules(topology: str) -> None:
    for seed in range(10_000, 13_000):
        Schedule(seed, topology).run().check()
