"""The peers of a site as commands show them."""

from __future__ import annotations

from federation.core.clock import Clock
from federation.core.replication_log import PeerRecord, PeerState
from federation.storage.reports import KnownPeer, Lag
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue

_LAG = """
SELECT s.seq, s.logged, (SELECT stored FROM log WHERE seq > $1 ORDER BY seq LIMIT 1) FROM site s
"""


async def known_peers(catalogue: SiteCatalogue, clock: Clock) -> list[KnownPeer]:
    """Return every known peer, sorted by name. Raises SourceUnavailable."""
    records = await catalogue.peers.records()
    counts = await catalogue.peers.parked_counts()
    lags = {
        (each.name, each.lane): await _lag(catalogue, each, clock)
        for each in records
        if each.state is PeerState.FOLLOWING
    }
    found = []
    for name in sorted({record.name for record in records}):
        lanes = {each.lane: each for each in records if each.name == name}
        of_name = {lane: lags[name, lane] for lane in lanes if (name, lane) in lags}
        found.append(KnownPeer(name, lanes, of_name, counts.get(name, 0)))
    return found


async def _lag(catalogue: SiteCatalogue, record: PeerRecord, clock: Clock) -> Lag:
    head, logged, stored_s = await catalogue.connections.ask_one(_LAG, record.cursor)
    return Lag(
        max(0, head - record.cursor),
        max(0, logged - await catalogue.log.total_bytes(record.cursor)),
        0.0 if stored_s is None else max(0.0, clock.wall_s() - stored_s),
    )
