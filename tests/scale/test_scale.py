"""The plans for large sites can be made again, and the documentation quotes what comes out."""

from __future__ import annotations

import pytest

from tests.scale.__main__ import SEED, quoted
from tests.scale.caches import Popularity, hit_rate, simulated_hit_rate
from tests.scale.calls import CallRates
from tests.scale.costs import DATABASE
from tests.scale.holdings import holdings
from tests.scale.mesh import Topology, full, ring, spread, tree
from tests.scale.site import load_of, takeover
from tests.scale.tables import TABLES


def test_one_seed_gives_one_table() -> None:
    first, second, other = (
        load_of(seed, 3, CallRates(writes=100, finds=50, entries=50), 0.2, DATABASE)
        for seed in (7, 7, 8)
    )
    assert first == second
    assert first != other


def test_an_idle_node_asks_the_database_twice_a_second_and_the_lead_beats() -> None:
    load = load_of(SEED, 10, CallRates(), 10.0, DATABASE)
    assert set(load.statements) == {"poll", "beat"}
    assert 20 <= load.statements["poll"] / load.seconds <= 25
    assert load.statements["beat"] / load.seconds == pytest.approx(1.0, rel=0.4)


def test_another_node_leads_within_six_seconds_and_nodes_do_not_fight_for_it() -> None:
    for seed in range(2):
        took_s, tries = takeover(seed, 10, DATABASE)
        assert took_s <= 6.0
        assert tries <= 3


def test_what_many_nodes_write_shares_transactions_and_flushes() -> None:
    load = load_of(SEED, 4, CallRates(writes=1000), 0.1, DATABASE._replace(disk_s=0.01))
    assert len(load.waits_s) > 1.5 * load.statements["insert_new"]
    assert load.statements["flush"] < len(load.waits_s)
    assert load.wait_s(0.5) >= 0.01  # nobody hears of success before the disk has it


def test_the_estimated_hit_rate_of_a_cache_is_that_of_a_simulated_one() -> None:
    usual = Popularity(places=2000, exponent=0.9, reads_s=100.0, replaced_s=1 / 400)
    for kept in (100, 600):
        expected = simulated_hit_rate(SEED, usual, kept, reads=24_000)
        assert hit_rate(usual, kept) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("topology", [full(6), tree(12), ring(9)])
def test_an_object_reaches_every_site(topology: Topology) -> None:
    found = spread(SEED, topology)
    assert found.sent.total() == found.taken.total() >= len(topology) - 1
    assert found.offers.total() >= found.sent.total()


def test_a_full_mesh_offers_each_object_with_the_square_of_its_sites() -> None:
    small, large = (spread(SEED, full(sites)).offers.total() for sites in (10, 20))
    assert large > 3.5 * small


def test_ten_times_the_objects_take_ten_times_the_room() -> None:
    small, large = holdings(10**8, 65536), holdings(10**9, 65536)
    assert large.rows_bytes == pytest.approx(10 * small.rows_bytes)
    assert large.inline_bytes == pytest.approx(10 * small.inline_bytes)
    assert holdings(10**9, 4096).inline_bytes < large.inline_bytes / 5


@pytest.mark.parametrize("name", ["limits", "objects", "caches", "sites"])
def test_the_documentation_quotes_what_comes_out(name: str) -> None:
    assert TABLES[name](SEED) == quoted(name), f"python -m tests.scale --table {name} --write"


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["nodes", "commits", "busy"])
def test_the_documentation_quotes_what_the_long_simulations_say(name: str) -> None:
    assert TABLES[name](SEED) == quoted(name), f"python -m tests.scale --table {name} --write"
