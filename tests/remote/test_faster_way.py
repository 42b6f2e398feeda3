from __future__ import annotations

from federation.remote.compression import LEAST_BYTES, FasterWay

SIZE = 4 * LEAST_BYTES


def run(way: FasterWay, seconds: dict[bool, float], blobs: int) -> list[bool]:
    chosen = []
    for _ in range(blobs):
        zstd = way.choose_zstd()
        chosen.append(zstd)
        way.took(SIZE, seconds[zstd], zstd=zstd)
    return chosen


def test_both_ways_are_tried_and_the_faster_one_stays() -> None:
    chosen = run(FasterWay(), {True: 0.1, False: 1.0}, 60)
    assert chosen[:2] == [True, False]
    assert chosen.count(False) <= 3
    chosen = run(FasterWay(), {True: 1.0, False: 0.1}, 60)
    assert chosen.count(True) <= 3


def test_a_link_that_changes_is_noticed() -> None:
    way = FasterWay()
    run(way, {True: 1.0, False: 0.1}, 10)
    assert not way.is_zstd
    run(way, {True: 1.0, False: 30.0}, 100)
    assert way.is_zstd


def test_small_blobs_say_nothing() -> None:
    way = FasterWay()
    way.took(LEAST_BYTES - 1, 100.0, zstd=True)
    assert way.choose_zstd()
    assert way.is_zstd


def test_of_batches_less_is_enough() -> None:
    way = FasterWay(32 * 1024)
    for zstd, seconds in ((True, 1.0), (False, 0.1)):
        assert way.choose_zstd() is zstd
        way.took(100 * 1024, seconds, zstd=zstd)
    assert not way.is_zstd
