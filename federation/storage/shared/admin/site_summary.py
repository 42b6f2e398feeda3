"""What a site holds, for `federation status`."""

from __future__ import annotations

from typing import Any

from federation.core.clock import Clock
from federation.storage.admin.healing import healing_facts
from federation.storage.catalogue.blobs import digest_of_key
from federation.storage.pin_tables import facts_of_pins
from federation.storage.shared.admin.site_peers import known_peers
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from federation.storage.shared.site_pins import site_pins

_SHOWN = 20
_STORED = """
SELECT s.seq, s.bytes, s.blobs, s.entries, s.gone, federation_cost(s), s.offline_since,
  greatest(0, c.hold_ms - c.now_ms), current_setting('server_version'),
  coalesce(s.seq - (SELECT min(seq) FROM log) + 1, 0), (SELECT count(*) FROM quarantine),
  (SELECT count(*) FROM lost WHERE back IS NOT NULL), s.purges, s.schema
FROM site s, clock c
"""
_QUARANTINED = "SELECT key, size, reason FROM quarantine ORDER BY id DESC LIMIT $1"
_LEADS = "SELECT role, node, term FROM lead ORDER BY role"
_LOST = """
SELECT key, size, reason, found, tries, tried, note FROM lost
WHERE back IS NULL AND NOT EXISTS (SELECT FROM blob WHERE blob.key = lost.key)
ORDER BY found DESC LIMIT $1
"""
_BACK = """
SELECT key, size, reason, found, back, origin FROM lost
WHERE back IS NOT NULL ORDER BY back DESC LIMIT $1
"""


async def site_summary(
    catalogue: SiteCatalogue, clock: Clock, quota_bytes: int, max_pinned_bytes: int
) -> dict[str, Any]:
    """Return the facts about the site. Raises SourceUnavailable.

    max_pinned_bytes: how many bytes of the quota pins may keep.
    """
    ask = catalogue.connections.ask
    pins = site_pins(catalogue, clock, lambda: max_pinned_bytes)
    *facts, purges, schema = await catalogue.connections.ask_one(_STORED)
    head, size, blobs, entries, gone, cost, since_s, hold_ms, version, rows, damaged, back = facts
    return {
        "engine": "shared",
        "node-id": catalogue.site_id,
        "offline-switch": "off" if since_s is None else "on",
        "schema-version": schema,
        "postgresql-version": version,
        "bytes": size,
        "blobs": blobs,
        "entries": entries,
        "held-bytes": cost,
        "quota-bytes": quota_bytes,
        "to-be-deleted-bytes": gone,
        "purges": purges,
        "pins": facts_of_pins(
            await pins.records.live(),
            await pins.keepings.totals(),
            await pins.keepings.total_bytes(),
            max_pinned_bytes,
        ),
        "change-log": {"last": head, "rows": rows},
        "eviction-held-for-ms": hold_ms or None,
        "leads": {role: node and f"{node}, term {term}" for role, node, term in await ask(_LEADS)},
        "quarantine": {
            "blobs": damaged,
            "newest": [
                f"{digest_of_key(key, size_bytes)}: {reason}"
                for key, size_bytes, reason in await ask(_QUARANTINED, _SHOWN)
            ],
        },
        "healing": healing_facts(
            (await catalogue.lost.due(0.0, 0)).lost,
            back,
            await ask(_LOST, _SHOWN),
            await ask(_BACK, _SHOWN),
        ),
        "peers": [peer.as_dict() for peer in await known_peers(catalogue, clock)],
    }
