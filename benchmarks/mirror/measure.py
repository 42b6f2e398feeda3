"""How a row of reads through proxies is measured: the same new blobs by every way in each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import disk, payloads, procfs
from benchmarks.link import Link
from benchmarks.mirror.site import Distance, Site
from benchmarks.mirror.work import Reads, Timing, Work
from benchmarks.payloads import MIB
from benchmarks.process import Server

DISK = "disk"  # no server: plain writes of the same bytes
_SETTLE_S = 0.05  # what a server does just after its answer belongs to the call


@dataclass(frozen=True)
class MirrorSpec:
    """A row: what is read, and how often at most."""

    name: str
    title: str
    make: Callable[[], Work]
    warm_up_bytes: int = MIB  # of the blobs that are read beforehand
    rounds_max: int = 100
    one_message: bool = False  # the first byte is the last
    distance: Distance | None = None  # of the upstream; None: all on loopback


@dataclass(frozen=True)
class Round:
    """What one way took in one round. CPU seconds and reads are of the round as a whole."""

    timings: list[Timing]
    upstream_cpu_s: float
    proxy_cpu_s: float
    client_cpu_s: float
    upstream_reads: int


@dataclass
class Way:
    """One way to the blobs: a server, and whether it has been asked for them before."""

    row: MirrorSpec
    server: str
    state: str
    rounds: list[Round] = field(default_factory=list)
    peak_bytes: int = 0  # of the proxy, this row's other states included

    @property
    def firsts(self) -> list[float]:
        """The median time to the first byte, of each round."""
        return [statistics.median(t.first_s for t in each.timings) for each in self.rounds]

    @property
    def wholes(self) -> list[float]:
        """The median time to the last byte, of each round."""
        return [statistics.median(t.whole_s for t in each.timings) for each in self.rounds]

    def per_call(self, of: Callable[[Round], float]) -> float:
        """Return something of the rounds for one call."""
        return sum(map(of, self.rounds)) / sum(len(each.timings) for each in self.rounds)


def run(spec: MirrorSpec, home: Path, proxies: Sequence[str], repeat: int) -> list[Way]:
    """Measure one row below a folder of its own."""
    site = Site(home, proxies, spec.distance)
    ways = {(site.upstream.name, "direct"): Way(spec, site.upstream.name, "direct")}
    ways[DISK, "synced"] = Way(spec, DISK, "synced")
    for name in proxies:
        ways |= {(name, state): Way(spec, name, state) for state in ("cold", "warm")}
    try:
        site.start()
        link = Link(site.upstream.address)
        _warm_up(spec, site, link)
        work = spec.make()
        for turn in range(min(repeat, spec.rounds_max)):
            work.renew(f"{spec.name}/{turn}", link)
            ways[DISK, "synced"].rounds.append(_disk_round(work, home))
            # Whoever goes first in one round goes last in the next.
            fronts = site.fronts
            for front in fronts[turn % len(fronts) :] + fronts[: turn % len(fronts)]:
                direct = front is site.upstream
                for state in ("direct",) if direct else ("cold", "warm"):
                    ways[front.name, state].rounds.append(_round(site, front, work))
        for front in site.fronts:
            for way in ways.values():
                if way.server == front.name:
                    way.peak_bytes = procfs.resident_bytes(front.pid, peak=True)
        link.close()
    finally:
        site.stop()
    return list(ways.values())


def _disk_round(work: Work, home: Path) -> Round:
    """Write as much as a proxy has to keep, with nobody else asking, and wait for the disk."""
    timings = []
    for size_bytes in work.sizes:
        pieces = payloads.split(payloads.large_blob(size_bytes))
        timings.append(Timing(*disk.seconds_to_keep(home, pieces)))
    return Round(timings, 0.0, 0.0, 0.0, 0)


def _warm_up(spec: MirrorSpec, site: Site, link: Link) -> None:
    """Prove every way right, and let each proxy find out how blobs come best."""
    for work in (Reads(spec.warm_up_bytes, blobs=4), spec.make()):
        work.renew(f"{spec.name}/warm-up", link)
        for front in site.fronts:
            work.check(site.address_of(front))
        if spec.rounds_max < MirrorSpec.rounds_max:
            return  # the row's own work is too much to be done twice


def _round(site: Site, front: Server, work: Work) -> Round:
    servers = [site.upstream] if front is site.upstream else [site.upstream, front]
    reads, cpu_s = site.upstream.reads(), [server.cpu_s() for server in servers]
    client_cpu_s = time.process_time()
    timings = work.run(site.address_of(front))
    client_cpu_s = time.process_time() - client_cpu_s
    time.sleep(_SETTLE_S)
    used_s = [server.cpu_s() - before for server, before in zip(servers, cpu_s, strict=True)]
    proxy_s = used_s[1] if len(used_s) > 1 else 0.0
    return Round(timings, used_s[0], proxy_s, client_cpu_s, site.upstream.reads() - reads)
