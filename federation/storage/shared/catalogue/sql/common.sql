-- Functions that others use.
--
-- Some functions switch off seqscan, hash joins and merge joins: they look up some keys in large
-- tables, and a plan that was made while a table was small would read all of it later. jit is
-- off because the cost that the planner adds for a join that is switched off would have each
-- plan compiled, which takes half a second.

-- Names this life of the database: see the table incarnation.
CREATE OR REPLACE FUNCTION federation_incarnation() RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  found uuid;
BEGIN
  SELECT token INTO found FROM incarnation;
  IF found IS NULL THEN
    INSERT INTO incarnation VALUES (1, gen_random_uuid()) ON CONFLICT DO NOTHING;
    SELECT token INTO found FROM incarnation;
  END IF;
  RETURN found;
END $$;

-- Has this transaction not wait for the disk. What it changes is durable after the next flush.
CREATE OR REPLACE FUNCTION federation_unsynced() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
END $$;

-- Makes durable everything that was committed before: flushed is the newest number among it.
-- Only a transaction that writes to the log of the database does that; having an id is not
-- enough.
CREATE OR REPLACE FUNCTION federation_flush(OUT flushed bigint, OUT token uuid)
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true);
  SELECT seq INTO flushed FROM site;
  token := federation_incarnation();
  PERFORM pg_logical_emit_message(true, 'federation', '');
END $$;

-- Fails unless this term still leads; null is a command, which leads nothing. The lock makes a
-- take-over wait for the end of this transaction.
CREATE OR REPLACE FUNCTION federation_check_lead(p_role text, p_term bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  IF p_term IS NULL THEN
    RETURN;
  END IF;
  PERFORM FROM lead WHERE role = p_role AND term = p_term AND node IS NOT NULL FOR SHARE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'another node leads (%) by now', p_role USING ERRCODE = 'FDL01';
  END IF;
END $$;

-- What the site's objects take of the quota; 256 and 240 as in rows.py.
CREATE OR REPLACE FUNCTION federation_cost(p_site site) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT p_site.bytes + p_site.gone + 256 * p_site.blobs + 240 * p_site.entries
$$;
