"""Sites that replicate to each other: how often an object is offered and sent, in which topology.

Which rows a peer is offered is decided by the product (federation.replication.selection). Links
take their time; a site offers a row once its follower has gathered for a moment, and a peer that
lacks the object is sent it.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import NamedTuple

from federation.config.peers import PeerConfig
from federation.core.digest import Digest
from federation.core.provenance import Source
from federation.core.replication_log import LogRow
from federation.replication.outcomes import SendOutcome
from federation.replication.rules import Rules, When
from federation.replication.selection import Choice
from tests.scale.costs import REPLICATION

Topology = Mapping[int, tuple[int, ...]]  # to whom each site sends

_LINK_S = (0.02, 0.15)  # one way, between regions
_GATHERS_S = (0.04, 0.25)  # until a row is read: the poll of the log, and the linger of a follower
_DIGEST = Digest(bytes(32), 4096)


def full(sites: int) -> Topology:
    """Each site is a peer of each other one, as `federation join` makes them."""
    return {a: tuple(b for b in range(sites) if b != a) for a in range(sites)}


def tree(sites: int, width: int = 3) -> Topology:
    """Site 0 on top; each site exchanges with the one above it and with up to `width` below it."""
    links: dict[int, list[int]] = {site: [] for site in range(sites)}
    for site in range(1, sites):
        above = (site - 1) // width
        links[site].append(above)
        links[above].append(site)
    return {site: tuple(others) for site, others in links.items()}


def ring(sites: int) -> Topology:
    """Each site exchanges with two neighbours."""
    return {a: tuple(sorted({(a + 1) % sites, (a - 1) % sites} - {a})) for a in range(sites)}


_ORIGINS = 5  # at which objects are pushed, where sites differ


class Spread(NamedTuple):
    """What became of one object that a client pushed at one site."""

    offers: Counter[int]  # by the site that asked a peer for it
    asked: Counter[int]  # by the site that was asked
    sent: Counter[int]  # by the site that sent it
    taken: Counter[int]  # by the site that received it, also if another one was faster
    everywhere_s: float  # after which every site had it


def spread(seed: int, topology: Topology, origin: int = 0) -> Spread:
    """Push one object at a site, and return what happens until it is offered no more."""
    rng = random.Random(seed)
    rules = Rules(PeerConfig.model_validate({"name": "peer", "url": "http://peer:1"}))
    found = Spread(Counter(), Counter(), Counter(), Counter(), 0.0)
    held: dict[int, float] = {}
    events: list[tuple[float, int, Callable[[float], None]]] = []
    order = count()

    def later(at_s: float, event: Callable[[float], None]) -> None:
        heapq.heappush(events, (at_s, next(order), event))

    def accept(site: int, via: tuple[str, ...], now_s: float) -> None:
        if site in held:
            return
        held[site] = now_s
        row = LogRow(1, _DIGEST, None, _DIGEST.size_bytes, 0.0, Source.CLIENT, via, "", 0)
        reads_s = now_s + rng.uniform(*_GATHERS_S)
        for peer in topology[site]:
            later(reads_s, partial(offer, site, peer, row))

    def offer(site: int, peer: int, row: LogRow, now_s: float) -> None:
        chosen = Choice(rules, str(peer), When.ALWAYS).rows([row], _skip)
        if not chosen.blobs:
            return
        found.offers[site] += 1
        found.asked[peer] += 1
        later(now_s + rng.uniform(*_LINK_S), partial(ask, site, peer, row))

    def ask(site: int, peer: int, row: LogRow, now_s: float) -> None:
        if peer in held:
            return
        found.sent[site] += 1
        found.taken[peer] += 1
        via = (*row.via, str(site))
        later(now_s + 2 * rng.uniform(*_LINK_S), partial(accept, peer, via))

    accept(origin, (), 0.0)
    while events:
        now_s, _, event = heapq.heappop(events)
        event(now_s)
    assert len(held) == len(topology), "the topology does not connect all sites"
    return found._replace(everywhere_s=max(held.values()))


def _skip(_row: LogRow, _outcome: SendOutcome) -> None:
    return None


def replication_s(seed: int, topology: Topology) -> float:
    """Return the CPU that one object costs the node that replicates at the busiest site.

    Objects are pushed at all sites alike.
    """
    is_even = len({len(peers) for peers in topology.values()}) == 1
    rng, used_s = random.Random(seed), Counter[int]()
    origins = [0] if is_even else rng.choices(list(topology), k=_ORIGINS)
    for origin in origins:
        found = spread(seed, topology, origin)
        for site in topology:
            used_s[site] += _cpu_ns(found, site)
    nanoseconds = used_s.total() / len(topology) if is_even else max(used_s.values())
    return nanoseconds / len(origins) * 1e-9


def _cpu_ns(found: Spread, site: int) -> int:
    """Return the CPU of one site for one object, in nanoseconds."""
    held_there, held_here = (
        found.offers[site] - found.sent[site],
        found.asked[site] - found.taken[site],
    )
    seconds = (
        found.sent[site] * REPLICATION.send_s
        + found.taken[site] * REPLICATION.take_s
        + held_there * REPLICATION.offer_s
        + held_here * REPLICATION.answer_s
    )
    return round(seconds * 1e9)
