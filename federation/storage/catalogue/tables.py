"""SQL that creates the tables and indexes of the catalogue."""

from __future__ import annotations

# blob: one row per blob, in key order (function byte + hash).
#   seq       the blob's row in the change log and, for an inline blob, its row in `small`; so blob
#             rows stay short, and thousands of look-ups touch few pages
#   used      when a client last used it (store milliseconds, like the next two)
#   leased    when it was last leased without a use; 0: never
#   marked    when eviction marked it; 0: live
#   ctime_ns  of the file when it was last verified; 0: inline
#   source    federation.core.store.Source; the change log knows more, but is trimmed
# instance: each name once; other tables have its id. 0 is the empty name, which blobs have.
# totals: bytes is the size of blobs and values; files is what blob files take of the disk.
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
# Eviction takes objects first that only upstreams gave, hence the partial indexes for them.
INDEXES = """
CREATE INDEX blob_pulled_by_use ON blob (used) WHERE source = 1;
CREATE INDEX blob_marked ON blob (marked, inline, size) WHERE marked > 0;
CREATE INDEX entry_by_use ON entry (used);
CREATE INDEX entry_pulled_by_use ON entry (used) WHERE source = 1;
"""

# lost: one row per blob that was set aside as damaged, and until when it was missing.
#   source    of the damaged copy
#   due       when other servers are asked for it (wall clock seconds, like the other times); NULL:
#             it is back
#   note      what the servers said at the last try
#   back      when it was held again; NULL: it is lost
#   origin    of the copy that came
LOST = """
CREATE TABLE lost (
  key BLOB PRIMARY KEY, size INTEGER NOT NULL, source INTEGER NOT NULL, reason TEXT NOT NULL,
  found REAL NOT NULL, due REAL, tries INTEGER NOT NULL DEFAULT 0, tried REAL NOT NULL DEFAULT 0,
  note TEXT NOT NULL DEFAULT '', back REAL, origin TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX lost_by_due ON lost (due) WHERE due IS NOT NULL;
"""
# purge: federation.core.purges.Purge, named as in the change log.
#   used      when the record last kept something out (store ms); it is forgotten some time later
#   seq       its number, a new one at each change: peers are told of those above the last they know
PURGES = """
CREATE TABLE purge (
  kind INTEGER NOT NULL, instance INTEGER NOT NULL, name BLOB NOT NULL, size INTEGER NOT NULL,
  label TEXT NOT NULL, by TEXT NOT NULL, at REAL NOT NULL, allowed INTEGER NOT NULL,
  ticks INTEGER NOT NULL, node TEXT NOT NULL, used INTEGER NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY (kind, instance, name)
) WITHOUT ROWID;
CREATE UNIQUE INDEX purge_by_seq ON purge (seq);
CREATE INDEX purge_by_use ON purge (used);
"""

# peer: how far each lane of each peer has acknowledged the change log (PeerRecord in
# federation.core.replication_log). parked.name of a blob is its key, as in the change log.
HOLDS = ", holds INTEGER NOT NULL DEFAULT 1"
TOLD = ", purges INTEGER NOT NULL DEFAULT 0"
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

# blob.kept, entry.kept: which keeping keeps it from eviction; 0: none. What is kept is in no index
# that eviction reads. New catalogues get there as older ones do, so that both are the same.
PINS = """
ALTER TABLE blob ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
DROP INDEX blob_by_use;
DROP INDEX blob_pulled_by_use;
DROP INDEX entry_by_use;
DROP INDEX entry_pulled_by_use;
CREATE INDEX blob_by_use ON blob (used) WHERE kept = 0;
CREATE INDEX blob_pulled_by_use ON blob (used) WHERE source = 1 AND kept = 0;
CREATE INDEX blob_kept_by_use ON blob (used) WHERE kept > 0;
CREATE INDEX entry_by_use ON entry (used) WHERE kept = 0;
CREATE INDEX entry_pulled_by_use ON entry (used) WHERE source = 1 AND kept = 0;
CREATE INDEX entry_kept_by_use ON entry (used) WHERE kept > 0;
"""
# pin: federation.core.pins.Pin.
#   seq       its number, a new one at each change; NULL: a command is still finding out whether it
#             fits, and it is not told to peers
#   scanned   whether all entries that were here when it was made have been looked at
#   tried     when that command last went on (store ms)
# keeping: what keeps one entry, or blob, for one pin, with what it names.
#   pin       NULL: nothing does any more, and what it keeps is given back when nobody else needs it
#   entry     row id of the entry, 0 for a pinned blob; seq: of its value (entry.seq)
#   state     federation.core.pins.KeptState
#   bytes     of the quota, of what it keeps: a blob that several entries name counts for one
#   missing   how many blobs are not here, as far as that is known
#   due       when it is looked at again (store ms); of one without a pin: when it is given back
PIN_TABLES = """
CREATE TABLE pin (
  id INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL UNIQUE, label TEXT NOT NULL,
  until REAL, note TEXT NOT NULL, by TEXT NOT NULL, at REAL NOT NULL, removed INTEGER NOT NULL,
  ticks INTEGER NOT NULL, node TEXT NOT NULL, seq INTEGER UNIQUE,
  scanned INTEGER NOT NULL DEFAULT 0, tried INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE keeping (
  id INTEGER PRIMARY KEY AUTOINCREMENT, pin INTEGER, entry INTEGER NOT NULL, seq INTEGER NOT NULL,
  state INTEGER NOT NULL DEFAULT 1, bytes INTEGER NOT NULL DEFAULT 0,
  blobs INTEGER NOT NULL DEFAULT 0, missing INTEGER NOT NULL DEFAULT 0,
  tries INTEGER NOT NULL DEFAULT 0, due INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX keeping_by_pin ON keeping (pin);
CREATE INDEX keeping_by_entry ON keeping (entry);
CREATE INDEX keeping_by_due ON keeping (due) WHERE state > 0 OR pin IS NULL;
"""

NEW = "".join(
    (
        *(TABLES, INSTANCES, NAMED_TABLES, INDEXES, LOST),
        *(PEER_TABLE.format(HOLDS + TOLD), PURGES, PINS, PIN_TABLES),
    )
)
