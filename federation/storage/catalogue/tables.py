"""The tables and indexes of the catalogue as this program makes them, as SQL."""

from __future__ import annotations

# One row a blob, in key order (function byte + hash). `seq` is the row of the change log that
# accepted it and, for a blob kept inline, its row in `small`: blob rows stay short, so that
# thousands of look-ups touch few pages. used: when a client last did; leased: when it was promised
# without being used, 0 for never; marked: when eviction did, 0 for live. These are store
# milliseconds. ctime_ns is the file's at its last verification; 0 for inline blobs. source: who
# gave it (federation.core.store.Source); the log, which says more, is trimmed.
# Instance names are kept once; rows have their ids. 0 is the empty name, and what blobs have.
# totals.bytes: of blobs and values; totals.files: what blob files take of the disk.
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE totals (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  bytes INTEGER NOT NULL, blobs INTEGER NOT NULL, entries INTEGER NOT NULL, seq INTEGER NOT NULL,
  logged INTEGER NOT NULL DEFAULT 0, ticks INTEGER NOT NULL DEFAULT 0,
  files INTEGER NOT NULL DEFAULT 0
);
INSERT INTO totals (id, bytes, blobs, entries, seq) VALUES (1, 0, 0, 0, 0);
CREATE TABLE blob (
  key BLOB PRIMARY KEY, size INTEGER NOT NULL, inline INTEGER NOT NULL, seq INTEGER NOT NULL,
  used INTEGER NOT NULL, verified INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  marked INTEGER NOT NULL DEFAULT 0, leased INTEGER NOT NULL DEFAULT 0,
  source INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX blob_by_use ON blob (used);
CREATE TABLE small (seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE quarantine (
  id INTEGER PRIMARY KEY, key BLOB NOT NULL, size INTEGER NOT NULL, reason TEXT NOT NULL,
  found REAL NOT NULL, file TEXT NOT NULL
);
"""
INSTANCES = """
CREATE TABLE instance (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
INSERT INTO instance VALUES (0, '');
"""
NAMED_TABLES = """
CREATE TABLE entry (
  id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, instance INTEGER NOT NULL, name BLOB NOT NULL,
  value BLOB NOT NULL, label TEXT NOT NULL, stored REAL NOT NULL, expires REAL,
  source INTEGER NOT NULL, origin TEXT NOT NULL, used INTEGER NOT NULL, seq INTEGER NOT NULL,
  ticks INTEGER NOT NULL, node TEXT NOT NULL, UNIQUE (kind, instance, name)
);
CREATE TABLE log (
  seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, instance INTEGER NOT NULL, name BLOB NOT NULL,
  size INTEGER NOT NULL, stored REAL NOT NULL, source INTEGER NOT NULL, via TEXT NOT NULL,
  origin TEXT NOT NULL, total INTEGER NOT NULL
);
CREATE TABLE parked (
  id INTEGER PRIMARY KEY, peer TEXT NOT NULL, kind INTEGER NOT NULL, instance INTEGER NOT NULL,
  name BLOB NOT NULL, size INTEGER NOT NULL, seq INTEGER NOT NULL, label TEXT NOT NULL,
  reason TEXT NOT NULL, parked REAL NOT NULL, tries INTEGER NOT NULL, retry INTEGER NOT NULL,
  UNIQUE (peer, kind, instance, name)
);
"""
# What only an upstream gave goes first: it has indexes of its own, small where there is little.
INDEXES = """
CREATE INDEX blob_pulled_by_use ON blob (used) WHERE source = 1;
CREATE INDEX blob_marked ON blob (marked, inline, size) WHERE marked > 0;
CREATE INDEX entry_by_use ON entry (used);
CREATE INDEX entry_pulled_by_use ON entry (used) WHERE source = 1;
"""

# How far each lane of each peer has acknowledged the change log (PeerRecord in
# federation.core.replication_log), and what was parked for it. A blob's `parked.name` is its key,
# as in the log.
HOLDS = ", holds INTEGER NOT NULL DEFAULT 1"
PEER_TABLE = """
CREATE TABLE peer (
  name TEXT NOT NULL, lane TEXT NOT NULL, cursor INTEGER NOT NULL, state TEXT NOT NULL,
  reason TEXT NOT NULL, position TEXT NOT NULL, node_id TEXT NOT NULL, log_seen TEXT NOT NULL,
  served INTEGER NOT NULL, sent_objects INTEGER NOT NULL, sent_bytes INTEGER NOT NULL,
  last_success REAL NOT NULL, last_error TEXT NOT NULL, last_error_at REAL NOT NULL,
  pins_pulled INTEGER NOT NULL, wanted INTEGER NOT NULL DEFAULT 0,
  marks INTEGER NOT NULL DEFAULT 0{}, PRIMARY KEY (name, lane)
) WITHOUT ROWID;
"""

NEW = TABLES + INSTANCES + NAMED_TABLES + INDEXES + PEER_TABLE.format(HOLDS)
