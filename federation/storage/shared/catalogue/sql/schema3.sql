-- What schema 3 adds: pins.

-- kept: the keeping that keeps it from eviction; null: none does. era of a kept row is later by 2^30
-- than the hour that it stands for: eviction asks for hours that have passed, so it never meets one,
-- and no index of a large table has to be made anew while nodes use it.
ALTER TABLE blob ADD COLUMN kept bigint;
ALTER TABLE entry ADD COLUMN kept bigint;

-- pin: federation.core.pins.Pin. Texts that people give are bytea, as in schema 1.
--   seq       its number, a new one at each change; null: a command is still finding out whether it
--             fits, and it is not told to peers
--   scanned   whether all entries that were here when it was made have been looked at
--   tried     when that command last went on (site time)
CREATE TABLE pin (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, target bytea NOT NULL, label bytea NOT NULL,
  until float8, note bytea NOT NULL, who bytea NOT NULL, at float8 NOT NULL,
  removed boolean NOT NULL DEFAULT false, ticks bigint NOT NULL, node text NOT NULL,
  seq bigint UNIQUE, scanned boolean NOT NULL DEFAULT false, tried bigint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX pin_by_target ON pin (sha256(target)); -- a target may be long

-- keeping: what keeps one entry, or blob, for one pin, with what it names.
--   pin       null: nothing does any more, and what it keeps is given back when nobody else needs it
--   kind      of the entry, as in log; 0 for a pinned blob; seq: of its value (entry.seq)
--   state     federation.core.pins.KeptState; 3: it has ended, and is being given back
--   bytes     of the quota, of what it keeps: a blob that several entries name counts for one
--   missing   how many blobs are not here, as far as that is known
--   due       when it is looked at again (site time); of one without a pin: when it is given back
CREATE TABLE keeping (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, pin bigint, kind smallint NOT NULL,
  instance bytea NOT NULL, name bytea NOT NULL, seq bigint NOT NULL,
  state smallint NOT NULL DEFAULT 1, bytes bigint NOT NULL DEFAULT 0,
  blobs bigint NOT NULL DEFAULT 0, missing bigint NOT NULL DEFAULT 0, tries int NOT NULL DEFAULT 0,
  due bigint NOT NULL DEFAULT 0
);
CREATE INDEX keeping_by_pin ON keeping (pin);
CREATE INDEX keeping_by_entry ON keeping (kind, instance, name);
CREATE INDEX keeping_due_again ON keeping (due) WHERE state > 0 AND pin IS NOT NULL;
CREATE INDEX keeping_ended ON keeping (state, due) WHERE pin IS NULL;

-- pinned: the sum over all keepings, the number of the newest change of a pin, and the last row of
-- the log that was looked at. Who changes what pins take, or several rows of pin or keeping, locks
-- this row before those, and after blobs, entries and site: so what pins may take is exact whichever
-- nodes pin, and nobody waits in a circle.
CREATE TABLE pinned (
  id smallint PRIMARY KEY CHECK (id = 1), bytes bigint NOT NULL DEFAULT 0,
  seq bigint NOT NULL DEFAULT 0, followed bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO pinned VALUES (1);
