"""The tables that docs/scaling.md quotes: each function simulates and returns Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from federation.config.model import StorageConfig
from tests.scale import holdings as held
from tests.scale.caches import Popularity, hit_rate
from tests.scale.calls import CallRates
from tests.scale.costs import BUCKET, DATABASE
from tests.scale.holdings import GIB, holdings
from tests.scale.limits import BUSY, limits
from tests.scale.mesh import Topology, full, replication_s, ring, spread, tree
from tests.scale.site import load_of, takeover

_CALLS = 15_000  # of one simulation of a busy site, at most
_HOUR_S, _DAY_S = 3600.0, 86_400.0
_CACHE_BYTES = 200 * GIB
_READS_S = 30.0  # of one node


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1g}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def _time(seconds: float) -> str:
    for unit, name in ((_DAY_S, "d"), (_HOUR_S, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _bytes(value: float) -> str:
    return f"{value / GIB / 1024:.1f} TB" if value >= 1024 * GIB else f"{value / GIB:.1f} GB"


def nodes(seed: int, *, quick: bool = False) -> str:
    """What nodes cost that do nothing, and how soon another one leads."""
    rows = []
    for count in (1, 10, 100) if quick else (1, 10, 100, 1000, 10_000):
        seconds = 20.0 if count <= 100 else 3.0
        load = load_of(seed, count, CallRates(), seconds, DATABASE)
        # Among more of them it takes no longer, but the simulation does.
        took_s, tries = takeover(seed, min(count, 1000), DATABASE) if count > 1 else (0.0, 0)
        rows.append(
            [
                _count(count),
                _count(load.statements_s),
                f"{load.cpu_s / load.seconds:.2g}",
                _count(count),
                _count(count * StorageConfig().connections),
                f"{took_s:.1f} s, {tries} tried" if count > 1 else "-",
            ]
        )
    head = [
        "nodes",
        "statements/s",
        "cores",
        "connections idle",
        "at most",
        "another one leads after",
    ]
    return _table(head, rows)


def commits(seed: int, *, quick: bool = False) -> str:
    """How long a small write takes, by nodes and blobs a second of the whole site."""
    cases = ((1, 500), (10, 3000), (100, 3000), (100, 15_000), (100, 30_000), (1000, 15_000))
    rows = []
    for count, blobs in cases[:2] if quick else cases:
        seconds = 0.1 if quick else min(2.0, _CALLS / blobs)
        load = load_of(seed, count, CallRates(writes=blobs / count), seconds, DATABASE)
        rows.append(
            [
                _count(count),
                _count(blobs),
                _count(len(load.waits_s) / load.statements["insert_new"]),
                _ms(load.wait_s(0.5)),
                _ms(load.wait_s(0.99)),
                f"{load.locked_s / load.seconds:.0%}",
                f"{load.cpu_s / load.seconds:.2g}",
            ]
        )
    head = ["nodes", "blobs/s", "a transaction", "p50", "p99", "lock held", "cores"]
    return _table(head, rows)


def busy(seed: int, *, quick: bool = False) -> str:
    """What busy nodes do to the database."""
    rows = []
    for count in (1, 10) if quick else (1, 10, 100, 1000):
        calls = sum(BUSY[:4]) * count
        seconds = 0.5 if quick else min(10.0, _CALLS / calls)
        load = load_of(seed, count, BUSY, seconds, DATABASE)
        rows.append(
            [
                _count(count),
                _count(calls),
                _count(load.statements_s),
                f"{load.cpu_s / load.seconds:.2g}",
                _ms(load.wait_s(0.5)),
                _ms(load.wait_s(0.99)),
                _count(load.used_max),
            ]
        )
    head = ["nodes", "calls/s", "statements/s", "cores", "write p50", "p99", "connections used"]
    return _table(head, rows)


def objects(seed: int, *, quick: bool = False) -> str:
    """What objects take, by the largest blob that is kept in the database."""
    del seed, quick
    rows = []
    for count in (10**6, 10**7, 10**8, 10**9):
        for inline_max in (64 * 1024, 4 * 1024):
            found = holdings(count, inline_max)
            rows.append(
                [
                    _count(count),
                    f"{inline_max // 1024}K",
                    _bytes(found.rows_bytes + found.log_bytes),
                    _bytes(found.inline_bytes),
                    _count(found.bucket_objects),
                    _bytes(found.bucket_bytes),
                    _time(found.sweep_s),
                    _time(found.scrub_s),
                    f"${found.bucket_month:,.0f}",
                ]
            )
    head = [
        "objects", "inline-max", "rows", "small blobs", "in the bucket", "bytes there", "swept in",
        "scrubbed in", "a month",
    ]  # fmt: skip
    return _table(head, rows)


def caches(seed: int, *, quick: bool = False) -> str:
    """Hit rates of the nodes' caches, and what is left for the database and the bucket."""
    del seed, quick
    rows = []
    for count, places in ((1, 10**6), (10, 10**7), (100, 10**8), (1000, 10**9)):
        mix = held.mixture(4 * 1024)
        average = mix.small_share * mix.small_bytes + (1 - mix.small_share) * mix.large_bytes
        kept = int(_CACHE_BYTES / average)
        # A thirtieth of all objects is replaced by new ones each day.
        usual = Popularity(places, 0.9, _READS_S, 1 / (30 * _DAY_S))
        hits = hit_rate(usual, kept)
        left_s = usual.reads_s * count * (1 - hits)
        gets_s = left_s * (1 - mix.small_share) * mix.parts
        rows.append(
            [
                _count(count),
                _count(places),
                _count(kept),
                f"{hits:.0%}",
                _count(left_s),
                _count(gets_s),
                f"${gets_s * 30 * _DAY_S * BUCKET.get:,.0f}",
            ]
        )
    head = ["nodes", "objects", "a cache holds", "hits", "reads of the database/s",
            "of the bucket/s", "a month"]  # fmt: skip
    return _table(head, rows)


_TOPOLOGIES: dict[str, Callable[[int], Topology]] = {
    "full mesh": full,
    "tree of 3": tree,
    "ring": ring,
}


def sites(seed: int, *, quick: bool = False) -> str:
    """What one object costs sites that replicate to each other, and how many a core can take."""
    rows = []
    for count in (2, 5) if quick else (2, 5, 10, 20, 30, 100):
        for name, build in _TOPOLOGIES.items():
            topology = build(count)
            if name == "ring" and count > 30:
                continue  # no object passes more than 16 sites
            found = spread(seed, topology)
            rows.append(
                [
                    _count(count),
                    name,
                    _count(found.offers.total()),
                    _count(found.sent.total()),
                    f"{found.everywhere_s:.1f} s",
                    _count(1 / replication_s(seed, topology)),
                ]
            )
    head = ["sites", "topology", "offers", "sent", "everywhere after", "objects/s of all sites"]
    return _table(head, rows)


def reached(seed: int, *, quick: bool = False) -> str:
    """Which limits are reached first, and what helps."""
    del quick
    rows = [
        [limit.what, f"{_rounded(limit.up_to)} {limit.of}", limit.help] for limit in limits(seed)
    ]
    return _table(["limit", "reached at", "what helps"], rows)


def _rounded(value: float) -> str:
    digits = -(len(f"{value:.0f}") - 2)
    return f"{round(value, min(0, digits)):,.0f}"


TABLES = {
    "limits": reached,
    "nodes": nodes,
    "commits": commits,
    "busy": busy,
    "objects": objects,
    "caches": caches,
    "sites": sites,
}
