"""How many of its reads a node's disk cache answers: LRU over objects of unequal popularity.

Reads choose a place by Zipf's law, and the object in a place is replaced by a new one now and then,
as builds change. `hit_rate` is Che's approximation extended by that replacement, for any number of
objects; `simulated_hit_rate` plays requests against an LRU, for as many as fit in memory.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import OrderedDict
from itertools import accumulate, pairwise
from typing import NamedTuple

_SINGLES = 100
_STEPS = 400  # further ranges of ranks, of equal width in the logarithm
_HALVINGS = 60


class Popularity(NamedTuple):
    """Reads of one node."""

    places: int  # for objects
    exponent: float  # of Zipf's law
    reads_s: float  # a second
    replaced_s: float  # how often the object in one place is replaced, a second


class _Ranks(NamedTuple):
    number: float
    reads_s: float  # of each


def _ranges(popularity: Popularity) -> list[_Ranks]:
    """Return ranges of ranks with about the same rate; the first ranks one by one."""
    places, flat = popularity.places, 1 - popularity.exponent
    singles = min(_SINGLES, places)
    weights = [(1.0, rank**-popularity.exponent) for rank in range(1, singles + 1)]
    width = ((places + 0.5) / (singles + 0.5)) ** (1 / _STEPS)
    edges = [(singles + 0.5) * width**step for step in range(_STEPS + 1)] if width > 1 else []
    for low, high in pairwise(edges):
        weights.append((high - low, (high**flat - low**flat) / flat / (high - low)))
    total = sum(number * weight for number, weight in weights)
    return [_Ranks(number, popularity.reads_s * weight / total) for number, weight in weights]


def hit_rate(popularity: Popularity, kept: int) -> float:
    """Return the share of reads that a cache for so many objects answers."""
    ranges, c = _ranges(popularity), popularity.replaced_s

    def occupied(stays_s: float) -> float:
        """Return how many objects are in a cache that keeps each for so long after its last use."""
        found = 0.0
        for ranks in ranges:
            live = _share_live(ranks.reads_s, c, stays_s)
            ends_s = ranks.reads_s + c
            dead = c * ranks.reads_s / ends_s * (stays_s + math.expm1(-ends_s * stays_s) / ends_s)
            found += ranks.number * (live + dead)
        return found

    low_s, high_s = 0.0, 1.0
    while occupied(high_s) < min(kept, popularity.places) and high_s < 1e12:
        high_s *= 2
    for _ in range(_HALVINGS):
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (middle_s, high_s) if occupied(middle_s) < kept else (low_s, middle_s)
    hits = sum(
        ranks.number * ranks.reads_s * _share_live(ranks.reads_s, c, high_s) for ranks in ranges
    )
    return hits / popularity.reads_s


def _share_live(reads_s: float, replaced_s: float, stays_s: float) -> float:
    """Return how likely the object in a place was read within this time, and is still there."""
    ends_s = reads_s + replaced_s
    return reads_s / ends_s * -math.expm1(-ends_s * stays_s)


def simulated_hit_rate(seed: int, popularity: Popularity, kept: int, reads: int) -> float:
    """Return the share of hits among the second half of so many reads."""
    rng = random.Random(seed)
    weights = list(
        accumulate(rank**-popularity.exponent for rank in range(1, popularity.places + 1))
    )
    held = [0] * popularity.places  # which object is in each place: the count of replacements
    changed_s = [0.0] * popularity.places
    cache: OrderedDict[tuple[int, int], None] = OrderedDict()
    now_s, hits = 0.0, 0
    for number in range(reads):
        now_s += rng.expovariate(popularity.reads_s)
        place = bisect_left(weights, rng.random() * weights[-1])
        if rng.random() < -math.expm1(-popularity.replaced_s * (now_s - changed_s[place])):
            held[place] += 1
        changed_s[place] = now_s
        key = (place, held[place])
        if key in cache:
            cache.move_to_end(key)
            hits += number >= reads // 2
            continue
        cache[key] = None
        if len(cache) > kept:
            cache.popitem(last=False)
    return hits / (reads - reads // 2)
