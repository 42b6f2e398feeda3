-- The tables of a site's catalogue, as the first version made them. Texts that clients give are
-- bytea: they may have any characters.
--
-- site: totals, and the numbers that what is accepted gets. Whoever accepts something locks this
-- row last, and commits without waiting for the disk: so the numbers are dense and in the order
-- of commits.
CREATE TABLE site (
  id smallint PRIMARY KEY CHECK (id = 1),
  schema int NOT NULL, site_id text NOT NULL, log_epoch text NOT NULL,
  bytes bigint NOT NULL DEFAULT 0,    -- of blobs and entries
  blobs bigint NOT NULL DEFAULT 0, entries bigint NOT NULL DEFAULT 0,
  gone bigint NOT NULL DEFAULT 0,     -- bytes of objects that wait to be deleted
  seq bigint NOT NULL DEFAULT 0,      -- of the newest row of the log
  logged bigint NOT NULL DEFAULT 0,   -- bytes of all rows ever logged
  ticks bigint NOT NULL DEFAULT 0,    -- of the greatest stamp given or received
  presence bigint NOT NULL DEFAULT 0, -- counts removals other than by eviction
  offline_since bigint                -- wall clock, s; null: the offline switch is off
) WITH (fillfactor = 10);

-- clock: the site's time in ms, which the lead of the upkeep advances. It never jumps, and
-- stands still while nobody leads. Nothing is evicted before hold_ms, and never while
-- incarnation is another one.
CREATE TABLE clock (
  id smallint PRIMARY KEY CHECK (id = 1),
  now_ms bigint NOT NULL, hold_ms bigint NOT NULL, incarnation uuid NOT NULL
) WITH (fillfactor = 10);

-- incarnation: unlogged tables are emptied by a crash and by a failover, which is also when what
-- was committed without waiting for the disk may be lost. A new token says that this has
-- happened.
CREATE UNLOGGED TABLE incarnation (id smallint PRIMARY KEY CHECK (id = 1), token uuid NOT NULL);

-- blob: key is the function's number and the hash. accessed (site ms) is the lease; era is the
-- hour of the last use by a client, the order of eviction. attempt is null for bytes in small.
-- Renewing a lease changes no index, and era once an hour.
CREATE TABLE blob (
  key bytea PRIMARY KEY, size bigint NOT NULL, seq bigint NOT NULL, accessed bigint NOT NULL,
  era int NOT NULL, source smallint NOT NULL, attempt bytea, parts bytea NOT NULL
) WITH (fillfactor = 85);
CREATE INDEX blob_by_use ON blob (era, seq);
CREATE INDEX blob_pulled_by_use ON blob (era, seq) WHERE source = 1;
CREATE TABLE small (seq bigint PRIMARY KEY, data bytea NOT NULL);
ALTER TABLE small ALTER data SET STORAGE EXTERNAL; -- compressing costs more than it saves

CREATE TABLE entry (
  kind smallint NOT NULL, instance bytea NOT NULL, name bytea NOT NULL,
  value bytea NOT NULL, label bytea NOT NULL, stored float8 NOT NULL, expires float8 NOT NULL,
  source smallint NOT NULL, origin text NOT NULL, accessed bigint NOT NULL, era int NOT NULL,
  seq bigint NOT NULL, ticks bigint NOT NULL, node text NOT NULL,
  PRIMARY KEY (kind, instance, name)
) WITH (fillfactor = 85);
CREATE INDEX entry_by_use ON entry (era, seq);
CREATE INDEX entry_pulled_by_use ON entry (era, seq) WHERE source = 1;

CREATE TABLE log (
  seq bigint PRIMARY KEY, kind smallint NOT NULL, instance bytea NOT NULL, name bytea NOT NULL,
  size bigint NOT NULL, stored float8 NOT NULL, source smallint NOT NULL, via text NOT NULL,
  origin text NOT NULL, total bigint NOT NULL
);

-- Objects of the bucket that have no row any more; deleted when the site's time has reached
-- due_ms.
CREATE TABLE gone (
  key bytea, attempt bytea, size bigint NOT NULL, due_ms bigint NOT NULL, PRIMARY KEY (key, attempt)
);
CREATE INDEX gone_by_due ON gone (due_ms);
CREATE TABLE quarantine (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key bytea NOT NULL, size bigint NOT NULL,
  reason text NOT NULL, found float8 NOT NULL
);
CREATE INDEX quarantine_by_key ON quarantine (key);

CREATE TABLE peer (
  name text, lane text, cursor bigint NOT NULL, state text NOT NULL, reason text NOT NULL,
  position text NOT NULL, node_id text NOT NULL, log_seen text NOT NULL,
  wanted bigint NOT NULL DEFAULT 0, served bigint NOT NULL, sent_objects bigint NOT NULL,
  sent_bytes bigint NOT NULL, last_success float8 NOT NULL, last_error text NOT NULL,
  last_error_at float8 NOT NULL, pins_pulled boolean NOT NULL, marks bigint NOT NULL DEFAULT 0,
  holds boolean NOT NULL, PRIMARY KEY (name, lane)
);
CREATE TABLE parked (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, peer text NOT NULL, kind smallint NOT NULL,
  instance bytea NOT NULL, name bytea NOT NULL, size bigint NOT NULL, seq bigint NOT NULL,
  label bytea NOT NULL, reason text NOT NULL, parked float8 NOT NULL, tries int NOT NULL,
  retry boolean NOT NULL, UNIQUE (peer, kind, instance, name)
);
-- What peers have, told before the peer's record is saved; -1: unknown. Rebuilt from peer after
-- a crash.
CREATE UNLOGGED TABLE acknowledged (peer text PRIMARY KEY, seq bigint NOT NULL);

-- Who does what for all nodes. node is null when the last one left of its own accord.
CREATE TABLE lead (
  role text PRIMARY KEY, node text, term bigint NOT NULL DEFAULT 0, beat bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO lead (role) VALUES ('upkeep'), ('replication'), ('healing');

-- Blobs that were found damaged.
CREATE TABLE lost (
  key bytea PRIMARY KEY, size bigint NOT NULL, source smallint NOT NULL, reason text NOT NULL,
  found float8 NOT NULL, tries int NOT NULL DEFAULT 0, tried float8 NOT NULL DEFAULT 0,
  due float8,   -- wall clock, s; null: it is back
  note text NOT NULL DEFAULT '', back float8, origin text NOT NULL DEFAULT ''
);
CREATE INDEX lost_by_due ON lost (due);
