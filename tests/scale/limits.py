"""Which limits a growing site or mesh reaches, and what helps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from federation.config.model import StorageConfig
from federation.core.hops import HOPS_MAX
from federation.storage.shared.catalogue.site_watch import POLL_S
from tests.scale.calls import CallRates
from tests.scale.costs import DATABASE, ROWS
from tests.scale.holdings import GIB, deleted_s, evicted_s, holdings, mixture
from tests.scale.mesh import full, replication_s

BUSY = CallRates(writes=10, finds=5, reads=10, entries=10)  # of one node, as the database sees it
_SMALL_INLINE = 4096
_LOCKED_SHARE = 0.8
_SERVER_CONNECTIONS = 500  # of a PostgreSQL without a pooler
_OBJECTS_S = 10.0  # that each site of a mesh receives from clients
_DAY_S = 86_400.0


class Limit(NamedTuple):
    """Something that does not grow by itself."""

    what: str
    up_to: float
    of: str  # what is counted
    help: str


def limits(seed: int) -> Iterator[Limit]:
    """Yield the limits of a site in the order in which it reaches them, then those of a mesh."""
    settings, writes_s = StorageConfig(), BUSY.writes
    locked_s = DATABASE.insert_locked.of(1)
    large = 1 - mixture(_SMALL_INLINE).small_share
    of_nodes = [
        Limit(
            "the change log covers less than a day of writes; a peer that is away for longer is "
            "compared with everything",
            settings.log_max_rows / _DAY_S / writes_s,
            "busy nodes",
            f"a larger `log-max-rows`: {ROWS.log} bytes a row",
        ),
        Limit(
            f"all connections together are more than {_SERVER_CONNECTIONS}",
            _SERVER_CONNECTIONS / settings.connections,
            "busy nodes",
            "`connections: 3`, or a pooler",
        ),
        Limit(
            f"the lock of the site is held {_LOCKED_SHARE:.0%} of the time; from there on nodes "
            f"take turns, and writes wait {locked_s * 1000:.1f} ms for each node",
            _LOCKED_SHARE / locked_s / writes_s,
            "busy nodes",
            "several sites, or edges in front",
        ),
        Limit(
            f"the database uses its {DATABASE.cores} cores",
            DATABASE.cores / _database_s(),
            "busy nodes",
            "a larger machine, several sites",
        ),
        Limit(
            "eviction is slower than writes", evicted_s() / writes_s, "busy nodes", "several sites"
        ),
        Limit(
            "deletions from the bucket are slower than uploads to it",
            deleted_s() / large / writes_s,
            "busy nodes",
            "a larger `inline-max`",
        ),
        Limit(
            "polls alone take a core of the database",
            POLL_S / DATABASE.poll.base_s,
            "nodes",
            "fewer nodes, with edges in front",
        ),
    ]
    yield from sorted(of_nodes, key=lambda limit: limit.up_to)
    for inline_max, help_ in ((settings.inline_max, "`inline-max: 4K`"), (4096, "several sites")):
        yield Limit(
            f"the database is larger than 1 TB with `inline-max: {inline_max // 1024}K`",
            1024 * GIB / holdings(10**9, inline_max).database_bytes * 10**9,
            "objects",
            help_,
        )
    yield Limit(
        "a full mesh takes a core of each site, if each receives "
        f"{_OBJECTS_S:.0f} objects a second from clients",
        _full_mesh(seed),
        "sites",
        "a tree of 3, and `rules` that replicate less",
    )
    yield Limit(
        "objects pass more sites than are named on the way (`federation-via`)",
        HOPS_MAX,
        "sites in a row",
        "shorter ways: no long ring",
    )


def _database_s() -> float:
    """Return the CPU of the database for a second of a busy node."""
    writes_s = sum(cost.of(1) for cost in (DATABASE.insert, DATABASE.insert_locked, DATABASE.flush))
    return (
        BUSY.writes * writes_s
        + BUSY.finds * DATABASE.find.of(BUSY.find_keys)
        + BUSY.reads * DATABASE.look_up.of(1)
        + BUSY.entries * DATABASE.entries.of(1)
        + DATABASE.poll.base_s / POLL_S
    )


def _full_mesh(seed: int) -> int:
    """Return how many sites a full mesh may have before its replication takes a core at each."""
    sites = 10
    while sites * _OBJECTS_S * replication_s(seed, full(sites)) < 1:
        sites += 10
    return sites
