"""Histories of many nodes: whatever goes wrong on the way, all end with the same."""

from __future__ import annotations

import pytest

from tests.replication.simulation import CALM, ROUGH, TOPOLOGIES, WORST, simulate

pytestmark = pytest.mark.slow

SEEDS = range(2)  # more by the command, and where they are marked heavy


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_r01_without_faults_each_object_crosses_each_link_at_most_once(topology: str) -> None:
    for seed in SEEDS:
        history = simulate(seed, topology, CALM).check()
        assert history.crossings > 0


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_r02_r29_after_cuts_and_crashes_all_hold_the_same_and_traffic_ends(
    topology: str,
) -> None:
    for seed in SEEDS:
        simulate(seed, topology, ROUGH).check()


@pytest.mark.parametrize("topology", ["pair", "ring3", "mesh3"])
def test_r20_lost_directories_and_trimmed_logs_are_made_up_for(topology: str) -> None:
    for seed in SEEDS:
        simulate(seed, topology, WORST).check()


def test_r15_two_values_of_one_name_end_as_one_although_clocks_are_days_apart() -> None:
    for seed in range(100, 106):
        simulate(seed, "pair", WORST, pushes=40).check()


def test_r29_a_blob_pushed_again_while_a_peer_took_no_records_gets_there() -> None:
    simulate(5014, "ring3", ROUGH).check()


def test_one_seed_gives_one_history() -> None:
    first, second = (simulate(11, "mesh3", WORST) for _ in range(2))
    assert (first.events, first.took_s, first.crossings) == (
        second.events,
        second.took_s,
        second.crossings,
    )


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_thousands_of_histories() -> None:
    for seed in range(1000, 1200):
        for topology in TOPOLOGIES:
            for faults in (CALM, ROUGH, WORST):
                simulate(seed, topology, faults).check()
