-- Who does what for all nodes, and the work of the upkeep. Each write carries the term of its
-- lead.

-- Takes over from the term that was seen; null if somebody else was faster.
CREATE OR REPLACE FUNCTION federation_take_lead(p_role text, p_node text, p_seen bigint)
RETURNS bigint
LANGUAGE sql AS $$
  UPDATE lead SET node = p_node, term = term + 1, beat = 0 WHERE role = p_role AND term = p_seen
  RETURNING term
$$;

-- Says that the lead is alive; p_ms: by how much the site's clock advances.
CREATE OR REPLACE FUNCTION federation_beat(p_role text, p_term bigint, p_ms bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_unsynced();
  UPDATE lead SET beat = beat + 1 WHERE role = p_role AND term = p_term AND node IS NOT NULL;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'another node leads (%) by now', p_role USING ERRCODE = 'FDL01';
  END IF;
  IF p_ms > 0 THEN
    UPDATE clock SET now_ms = now_ms + p_ms;
  END IF;
END $$;

-- Leaves, so that another node need not wait until this one has been silent for long.
CREATE OR REPLACE FUNCTION federation_resign(p_role text, p_term bigint) RETURNS void
LANGUAGE sql AS $$
  UPDATE lead SET node = NULL WHERE role = p_role AND term = p_term
$$;

-- The site's clock. If leases that were given before a crash may be lost, nothing is removed for p_age
-- ms from now (hold_ms).
CREATE OR REPLACE FUNCTION federation_clock_of_leases(p_age bigint) RETURNS clock
LANGUAGE plpgsql AS $$
DECLARE
  c clock;
  life uuid;
BEGIN
  life := federation_incarnation();
  SELECT * INTO c FROM clock FOR UPDATE;
  IF c.incarnation <> life THEN
    UPDATE clock SET incarnation = life, hold_ms = now_ms + p_age RETURNING * INTO c;
  END IF;
  RETURN c;
END $$;

-- Removes objects that were not leased for p_age ms, the least recently used first and those
-- that only upstreams gave before all others, until p_bytes of the quota are freed; looks at
-- p_rows at most. Objects that a peer still waits for stay; is_pinned says that there are such.
-- No object was used later than it was leased, so era bounds the search; that of what pins keep is
-- beyond it.
CREATE OR REPLACE FUNCTION federation_evict(
  p_role text, p_term bigint, p_bytes bigint, p_rows int, p_age bigint, p_lease bigint,
  OUT blobs bigint, OUT entries bigint, OUT freed bigint, OUT is_paused boolean,
  OUT is_pinned boolean
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  c clock;
  pin bigint;
  pulled_pin bigint;
  oldest bigint; -- the first time of the leases that hold
  total record;
BEGIN
  PERFORM federation_check_lead(p_role, p_term);
  PERFORM federation_unsynced();
  c := federation_clock_of_leases(p_age);
  is_paused := c.now_ms < c.hold_ms;
  blobs := 0;
  entries := 0;
  freed := 0;
  is_pinned := false;
  IF is_paused THEN
    RETURN;
  END IF;
  SELECT coalesce(min(cursor), 9e18::bigint),
    coalesce(min(cursor) FILTER (WHERE pins_pulled), 9e18::bigint)
  INTO pin, pulled_pin FROM peer WHERE holds;
  oldest := c.now_ms - p_age;
  FOR pulled IN REVERSE 1 .. 0 LOOP
    WITH some_blobs AS MATERIALIZED (
      SELECT b.era, b.seq, b.size + 256 AS cost, b.key FROM blob b
      WHERE (b.source = 1) = (pulled = 1) AND b.accessed < oldest AND b.era <= oldest / 3600000
        AND b.seq <= CASE pulled WHEN 1 THEN pulled_pin ELSE pin END
      ORDER BY b.era, b.seq LIMIT p_rows FOR UPDATE SKIP LOCKED
    ), some_entries AS MATERIALIZED (
      SELECT e.era, e.seq, octet_length(e.value) + octet_length(e.label) + 240 AS cost,
        e.kind, e.instance, e.name FROM entry e
      WHERE (e.source = 1) = (pulled = 1) AND e.accessed < oldest AND e.era <= oldest / 3600000
        AND e.seq <= CASE pulled WHEN 1 THEN pulled_pin ELSE pin END
      ORDER BY e.era, e.seq LIMIT p_rows FOR UPDATE SKIP LOCKED
    ), chosen AS MATERIALIZED (
      SELECT * FROM (
        SELECT *, sum(cost) OVER (ORDER BY era, seq) AS up_to FROM (
          SELECT *, NULL::smallint AS kind, NULL::bytea AS instance, NULL::bytea AS name
          FROM some_blobs
          UNION ALL SELECT era, seq, cost, NULL, kind, instance, name FROM some_entries
        ) AS either
      ) AS summed WHERE up_to - cost < p_bytes - freed
    ), gone_blobs AS (
      DELETE FROM blob b USING chosen ch WHERE b.key = ch.key
      RETURNING b.key, b.size, b.seq, b.attempt
    ), gone_bytes AS (
      DELETE FROM small s USING gone_blobs g WHERE g.attempt IS NULL AND s.seq = g.seq
    ), objects AS (
      INSERT INTO gone SELECT g.key, g.attempt, g.size, c.now_ms + p_lease FROM gone_blobs g
      WHERE g.attempt IS NOT NULL ON CONFLICT DO NOTHING RETURNING size
    ), gone_entries AS (
      DELETE FROM entry e USING chosen ch
      WHERE e.kind = ch.kind AND e.instance = ch.instance AND e.name = ch.name
      RETURNING octet_length(e.value) + octet_length(e.label) AS size
    )
    SELECT (SELECT count(*) FROM gone_blobs) AS blobs,
      (SELECT count(*) FROM gone_entries) AS entries,
      (SELECT coalesce(sum(size), 0) FROM gone_blobs)
        + (SELECT coalesce(sum(size), 0) FROM gone_entries) AS bytes,
      (SELECT coalesce(sum(size), 0) FROM objects) AS objects INTO total;
    blobs := blobs + total.blobs;
    entries := entries + total.entries;
    freed := freed + total.bytes + 256 * total.blobs + 240 * total.entries;
    IF total.blobs + total.entries > 0 THEN
      UPDATE site t SET blobs = t.blobs - total.blobs, entries = t.entries - total.entries,
        bytes = t.bytes - total.bytes, gone = t.gone + total.objects;
    END IF;
    EXIT WHEN freed >= p_bytes OR total.blobs + total.entries >= p_rows;
  END LOOP;
  is_pinned := freed < p_bytes AND (
    EXISTS (SELECT FROM blob b WHERE b.accessed < oldest AND b.era <= oldest / 3600000
      AND b.seq > CASE b.source WHEN 1 THEN pulled_pin ELSE pin END)
    OR EXISTS (SELECT FROM entry e WHERE e.accessed < oldest AND e.era <= oldest / 3600000
      AND e.seq > CASE e.source WHEN 1 THEN pulled_pin ELSE pin END));
END $$;

-- Looks at p_rows entries of an instance and kind with names after p_after, and removes those that no
-- pin keeps, that no client has used for p_age ms (by the hour), and that were not leased for
-- p_lease_age ms. Returns the last name, null if there are no more, and how many were removed.
CREATE OR REPLACE FUNCTION federation_expire(
  p_term bigint, p_kind bigint, p_instance bytea, p_after bytea, p_rows int, p_age bigint,
  p_lease_age bigint, OUT last bytea, OUT removed bigint
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  c clock;
  size bigint;
BEGIN
  PERFORM federation_check_lead('upkeep', p_term);
  PERFORM federation_unsynced();
  c := federation_clock_of_leases(p_lease_age);
  removed := 0;
  IF c.now_ms < c.hold_ms THEN
    RETURN;
  END IF;
  SELECT (array_agg(o.name ORDER BY o.name DESC))[1] INTO last FROM (
    SELECT e.name FROM entry e
    WHERE e.kind = p_kind AND e.instance = p_instance AND e.name > p_after
    ORDER BY e.name LIMIT p_rows
  ) AS o;
  WITH old AS MATERIALIZED (
    SELECT e.name FROM entry e
    WHERE e.kind = p_kind AND e.instance = p_instance AND e.name > p_after AND e.name <= last
      AND e.accessed < c.now_ms - p_lease_age AND e.era < (c.now_ms - p_age) / 3600000
    ORDER BY e.name FOR UPDATE
  ), gone AS (
    DELETE FROM entry e USING old
    WHERE e.kind = p_kind AND e.instance = p_instance AND e.name = old.name
    RETURNING octet_length(e.value) + octet_length(e.label) AS size
  )
  SELECT count(*), coalesce(sum(gone.size), 0) INTO removed, size FROM gone;
  IF removed > 0 THEN
    UPDATE site SET entries = entries - removed, bytes = bytes - size;
  END IF;
END $$;

-- Forgets objects that were deleted from the bucket.
CREATE OR REPLACE FUNCTION federation_gone_done(
  p_role text, p_term bigint, p_keys bytea[], p_attempts bytea[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_check_lead(p_role, p_term);
  PERFORM federation_unsynced();
  WITH done AS (
    DELETE FROM gone g USING unnest(p_keys, p_attempts) AS o(key, attempt)
    WHERE g.key = o.key AND g.attempt = o.attempt RETURNING g.size
  )
  UPDATE site SET gone = gone - (SELECT coalesce(sum(size), 0) FROM done);
END $$;

-- Removes up to p_rows of the oldest rows of the log, so that p_most remain at most, and
-- p_needless of those that every peer has acknowledged. Returns how many, and which peers needed
-- them: these are marked, and brought up to date by a reconcile.
CREATE OR REPLACE FUNCTION federation_trim(
  p_role text, p_term bigint, p_most bigint, p_needless bigint, p_rows int, p_reason text,
  OUT removed bigint, OUT marked text[]
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  head bigint;
  last_gone bigint;
  acknowledged bigint;
BEGIN
  PERFORM federation_check_lead(p_role, p_term);
  SELECT seq INTO head FROM site;
  SELECT coalesce(min(cursor), head) INTO acknowledged FROM peer WHERE holds;
  last_gone := head - p_most;
  IF least(head - p_needless, acknowledged) > last_gone THEN
    last_gone := least(head - p_needless, acknowledged);
  ELSIF EXISTS (SELECT FROM log WHERE seq <= last_gone) THEN
    WITH given_up AS (
      UPDATE peer SET state = 'needs-resync', reason = p_reason, position = '', marks = marks + 1,
        holds = false
      WHERE holds AND cursor < last_gone RETURNING name, lane
    )
    SELECT array_agg(name || '/' || lane ORDER BY name, lane) INTO marked FROM given_up;
  END IF;
  DELETE FROM log
  WHERE seq IN (SELECT seq FROM log WHERE seq <= last_gone ORDER BY seq LIMIT p_rows);
  GET DIAGNOSTICS removed = ROW_COUNT;
END $$;

-- Begins a new log epoch: peers that know the old one are brought up to date by a reconcile. It is
-- also a new life of the database, as after a crash: leases and acknowledgements that were given since
-- the copy was made are not in it, and no node knows what of it is durable.
CREATE OR REPLACE FUNCTION federation_begin_epoch(p_role text, p_term bigint, p_epoch text)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_check_lead(p_role, p_term);
  UPDATE site SET log_epoch = p_epoch;
  UPDATE incarnation SET token = gen_random_uuid();
  DELETE FROM acknowledged;
  UPDATE peer SET state = 'needs-resync', reason = 'the change log was begun anew', position = '',
    marks = marks + 1, holds = false;
END $$;

-- Marks the lane of a peer that lags most, so that what it waits for can be evicted. Returns
-- NAME/LANE, null if all have caught up.
CREATE OR REPLACE FUNCTION federation_give_up_one(p_role text, p_term bigint, p_reason text)
RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  given_up text;
BEGIN
  PERFORM federation_check_lead(p_role, p_term);
  UPDATE peer p SET state = 'needs-resync', reason = p_reason, position = '', marks = p.marks + 1,
    holds = false
  FROM (
    SELECT name, lane FROM peer WHERE holds AND cursor < (SELECT seq FROM site)
    ORDER BY cursor, name, lane LIMIT 1 FOR UPDATE
  ) AS last WHERE p.name = last.name AND p.lane = last.lane
  RETURNING p.name || '/' || p.lane INTO given_up;
  RETURN given_up;
END $$;
