"""SQL that migrates catalogues of older schema versions, and views to query them unmigrated."""

from __future__ import annotations

from collections.abc import Mapping

from federation.storage.catalogue.tables import (
    INDEXES,
    INSTANCES,
    LOST,
    NAMED_TABLES,
    PEER_TABLE,
    PIN_TABLES,
    PINS,
    PURGES,
    TOLD,
)

_PARKED_2 = """
CREATE TABLE parked (
  id INTEGER PRIMARY KEY, peer TEXT NOT NULL, kind INTEGER NOT NULL, instance TEXT NOT NULL,
  name BLOB NOT NULL, size INTEGER NOT NULL, seq INTEGER NOT NULL, label TEXT NOT NULL,
  reason TEXT NOT NULL, parked REAL NOT NULL, tries INTEGER NOT NULL, retry INTEGER NOT NULL,
  UNIQUE (peer, kind, instance, name)
);
"""

# Older rows of the log count as 0 bytes in its totals: no peer's cursor is among them. An entry is
# stamped with the time it was stored, or with the present if that lies in the future.
_STAMPS = """
ALTER TABLE totals ADD COLUMN logged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE totals ADD COLUMN ticks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN total INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN ticks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN node TEXT NOT NULL DEFAULT '';
UPDATE entry SET
  ticks = CAST(min(stored, unixepoch('now', 'subsec')) * 1000 AS INTEGER) << 16,
  node = ifnull((SELECT value FROM meta WHERE name = 'node_id'), '')
  WHERE source <> 1;
UPDATE totals SET ticks = ifnull((SELECT max(ticks) FROM entry), 0);
"""

# Version 3. Columns of blob are renamed or added without writing rows, except those of pulled
# blobs. Only the newest rows of the log, and those that a peer has not acknowledged, are copied:
# the log may be longer than everything else.
_RENAMED = """
ALTER TABLE totals ADD COLUMN files INTEGER NOT NULL DEFAULT 0;
UPDATE totals SET files = ifnull(
  (SELECT sum((size + 4095) / 4096 * 4096) FROM blob WHERE NOT inline), 0);
DROP INDEX blob_by_access;
DROP INDEX blob_marked;
ALTER TABLE blob RENAME COLUMN accessed TO used;
ALTER TABLE blob RENAME COLUMN state TO marked;
ALTER TABLE blob ADD COLUMN leased INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blob ADD COLUMN source INTEGER NOT NULL DEFAULT 0;
UPDATE blob SET source = 1 WHERE key IN (
  SELECT log.name FROM log JOIN blob ON blob.key = log.name AND blob.seq = log.seq
  WHERE log.kind = 0 AND log.source = 1);
CREATE INDEX blob_by_use ON blob (used);
DROP INDEX entry_by_access;
ALTER TABLE entry RENAME TO entry_2;
ALTER TABLE log RENAME TO log_2;
ALTER TABLE parked RENAME TO parked_2;
"""
_INTERNED = """
INSERT INTO instance (name) SELECT instance FROM entry_2 WHERE instance <> '' UNION
  SELECT instance FROM log_2 WHERE instance <> '' UNION
  SELECT instance FROM parked_2 WHERE instance <> '';
"""
_TAKEN_OVER = """
INSERT INTO entry SELECT entry_2.id, kind, instance.id, entry_2.name, value, label, stored,
  expires, source, origin, accessed, seq, ticks, node
  FROM entry_2 JOIN instance ON instance.name = entry_2.instance ORDER BY entry_2.id;
INSERT INTO log SELECT seq, kind, instance.id, log_2.name, size, stored, source, via, origin, total
  FROM log_2 JOIN instance ON instance.name = log_2.instance
  WHERE seq > min((SELECT seq FROM totals) - 100000,
    ifnull((SELECT min(cursor) FROM peer WHERE state = 'following'), 9e18))
  ORDER BY seq;
INSERT INTO parked SELECT parked_2.id, peer, kind, instance.id, parked_2.name, size, seq, label,
  reason, parked, tries, retry
  FROM parked_2 JOIN instance ON instance.name = parked_2.instance ORDER BY parked_2.id;
DROP TABLE entry_2;
DROP TABLE log_2;
DROP TABLE parked_2;
"""
_HELD_FOR_PEERS = """
ALTER TABLE peer ADD COLUMN holds INTEGER NOT NULL DEFAULT 1;
UPDATE peer SET holds = 0 WHERE state <> 'following' AND (marks > 0 OR reason <> 'new');
"""
_USES = "".join(
    (_RENAMED, INSTANCES, _INTERNED, NAMED_TABLES, _TAKEN_OVER, INDEXES, _HELD_FOR_PEERS)
)

# Version 4: what was quarantined before, and did not come back, is asked for, too.
_QUARANTINED_BEFORE = """
INSERT OR REPLACE INTO lost (key, size, source, reason, found, due)
  SELECT key, size, 0, reason, found, 0 FROM quarantine
  WHERE key NOT IN (SELECT key FROM blob) ORDER BY id;
"""
_PURGED = f"ALTER TABLE peer ADD COLUMN {TOLD.removeprefix(', ')};{PURGES}"

# From version N to N + 1. Version 1 is the first.
MIGRATIONS: Mapping[int, str] = {
    1: _STAMPS + PEER_TABLE.format("") + _PARKED_2,
    2: _USES,
    3: LOST + _QUARANTINED_BEFORE,
    4: _PURGED,
    5: PINS + PIN_TABLES,
}

# Views that let queries for the current schema read a catalogue of an older version, which a node
# of that version may still serve.
_BEFORE_3 = """
CREATE TEMP VIEW blob AS SELECT key, size, inline, seq, accessed AS used, verified, ctime_ns,
  state AS marked, 0 AS leased,
  ifnull((SELECT source FROM main.log WHERE log.seq = blob.seq), 0) AS source, 0 AS kept
  FROM main.blob;
CREATE TEMP VIEW entry AS SELECT *, accessed AS used, 0 AS kept FROM main.entry;
CREATE TEMP VIEW instance AS SELECT instance AS id, instance AS name FROM main.entry
  UNION SELECT instance, instance FROM main.log;
"""
_PEERS_BEFORE_3 = """
CREATE TEMP VIEW peer AS SELECT *, state = 'following' AS holds, 0 AS purges FROM main.peer;
"""
_BEFORE_4 = """
CREATE TEMP VIEW lost AS SELECT key, size, 0 AS source, reason, found, NULL AS due, 0 AS tries,
  0.0 AS tried, '' AS note, NULL AS back, '' AS origin FROM main.quarantine WHERE 0;
"""
_BEFORE_5 = PURGES.replace("CREATE TABLE", "CREATE TEMP TABLE").replace(
    "INDEX purge", "INDEX temp.purge"
)
_BEFORE_6 = PIN_TABLES.replace("CREATE TABLE", "CREATE TEMP TABLE").replace(
    "INDEX keeping", "INDEX temp.keeping"
)
_KEPT_3_TO_5 = """
CREATE TEMP VIEW blob AS SELECT *, 0 AS kept FROM main.blob;
CREATE TEMP VIEW entry AS SELECT *, 0 AS kept FROM main.entry;
"""
_PEERS_3_AND_4 = "CREATE TEMP VIEW peer AS SELECT *, 0 AS purges FROM main.peer;"


def as_current(version: int) -> str:
    """Return the SQL of these views for a catalogue of this version; empty: it needs none."""
    if version == 0:
        return ""
    return "".join(
        views
        for views, is_needed in (
            (_BEFORE_3, version < 3),
            (_PEERS_BEFORE_3, version == 2),
            (_PEERS_3_AND_4, version in {3, 4}),
            (_BEFORE_4, version < 4),
            (_BEFORE_5, version < 5),
            (_KEPT_3_TO_5, version in {3, 4, 5}),
            (_BEFORE_6, version < 6),
        )
        if is_needed
    )
