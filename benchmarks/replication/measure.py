"""The rows about replication, and how each is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import procfs
from benchmarks.process import Server
from benchmarks.replication import work
from benchmarks.replication.site import Alone, Site

_SETTLE_S = 0.3  # cursors are saved, and garbage is collected


@dataclass(frozen=True)
class ReplicationSpec:
    """A row: what is done how often, and what it should reach."""

    name: str
    title: str
    measure: Callable[[ReplicationSpec, Path, str, int], Arrival]
    objects: int
    must: str = ""
    rounds_max: int = 100


@dataclass
class Arrival:
    """What one kind of peer took. Times in seconds; CPU seconds are for one object."""

    row: ReplicationSpec
    peer: str
    seconds: list[float] = field(default_factory=list)  # of each round
    beside: list[float] = field(default_factory=list)  # the same without a peer, if told
    sender_cpu_s: float = 0.0
    peer_cpu_s: float = 0.0
    peak_bytes: int = 0  # of the sender

    @property
    def value(self) -> float:
        """The median round."""
        return statistics.median(self.seconds)


def arrival(spec: ReplicationSpec, home: Path, peer: str, repeat: int) -> Arrival:
    """Time until a burst is at the peer."""
    return _timed(spec, home, peer, repeat, work.burst)


def catching_up(spec: ReplicationSpec, home: Path, peer: str, repeat: int) -> Arrival:
    """Time until a peer that was frozen has what came meanwhile."""
    return _timed(spec, home, peer, repeat, work.catch_up)


def pushing(spec: ReplicationSpec, home: Path, peer: str, repeat: int) -> Arrival:
    """Time of a push with a peer, and beside it without one."""
    found = Arrival(spec, peer)
    site, alone = Site(home, peer), Alone(home)
    try:
        site.start()
        alone.start()
        server: Server
        for server in (site.sender, alone):
            work.push(server.address, "warm-up", spec.objects // 4)
        before = _cpu_s(site)
        for turn in range(min(repeat, spec.rounds_max)):
            pair: list[tuple[Server, list[float]]] = [
                (site.sender, found.seconds),
                (alone, found.beside),
            ]
            for server, seconds in pair if turn % 2 else reversed(pair):
                took = work.push(server.address, f"{server.name}/{turn}", spec.objects)
                seconds.append(statistics.median(took))
        _note_cost(found, site, before, spec.objects * len(found.seconds))
    finally:
        alone.stop()
        site.stop()
    return found


def _timed(
    spec: ReplicationSpec,
    home: Path,
    peer: str,
    repeat: int,
    run: Callable[[Site, str, int], float],
) -> Arrival:
    found = Arrival(spec, peer)
    site = Site(home, peer)
    try:
        site.start()
        work.burst(site, "warm-up", 100)
        before = _cpu_s(site)
        for turn in range(min(repeat, spec.rounds_max)):
            found.seconds.append(run(site, f"{spec.name}/{turn}", spec.objects))
        _note_cost(found, site, before, spec.objects * len(found.seconds))
    finally:
        site.stop()
    return found


def _cpu_s(site: Site) -> tuple[float, float]:
    return site.sender.cpu_s(), site.peer.cpu_s()


def _note_cost(found: Arrival, site: Site, before: tuple[float, float], objects: int) -> None:
    time.sleep(_SETTLE_S)
    after = _cpu_s(site)
    found.sender_cpu_s = (after[0] - before[0]) / objects
    found.peer_cpu_s = (after[1] - before[1]) / objects
    found.peak_bytes = procfs.resident_bytes(site.sender.pid, peak=True)
