-- What schema 2 adds: purges, and which programs may serve the site.

-- oldest: the oldest schema whose programs may serve this one. A node of an older one stops.
ALTER TABLE site
  ADD COLUMN oldest int NOT NULL DEFAULT 1,
  ADD COLUMN purges bigint NOT NULL DEFAULT 0,    -- records
  ADD COLUMN purge_seq bigint NOT NULL DEFAULT 0, -- number of the newest change of a record
  ADD COLUMN purges_forgotten bigint NOT NULL DEFAULT 0; -- the highest number that was forgotten

-- purge: see federation/core/purges.py. kind, instance and name as in log; used is site time. seq
-- is a new one at each change: whoever goes on from a number sees every change.
CREATE TABLE purge (
  kind smallint NOT NULL, instance bytea NOT NULL, name bytea NOT NULL, size bigint NOT NULL,
  label bytea NOT NULL, who bytea NOT NULL, at float8 NOT NULL, allowed boolean NOT NULL,
  ticks bigint NOT NULL, node text NOT NULL, used bigint NOT NULL, seq bigint NOT NULL UNIQUE,
  PRIMARY KEY (kind, instance, name)
);
CREATE INDEX purge_by_label ON purge (label) WHERE kind > 0;

-- purges: every record up to this number was told to the peer.
ALTER TABLE peer ADD COLUMN purges bigint NOT NULL DEFAULT 0;
