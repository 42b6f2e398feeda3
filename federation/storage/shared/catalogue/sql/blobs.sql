-- Looking up, leasing and accepting blobs. Rows are locked before the row site, in the order of
-- keys.

-- Renews the leases of those of p_keys that are still held, and returns how many these are.
CREATE OR REPLACE FUNCTION federation_renew(p_keys bytea[], p_use int, p_now bigint) RETURNS int
LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  renewed int;
BEGIN
  WITH locked AS MATERIALIZED (
    SELECT b.key FROM unnest(p_keys) AS k(key) JOIN blob b ON b.key = k.key
    ORDER BY b.key FOR NO KEY UPDATE OF b
  )
  UPDATE blob b SET
    accessed = greatest(b.accessed, p_now),
    era = CASE WHEN p_use = 2 THEN greatest(b.era, p_now / 3600000) ELSE b.era END
  FROM locked WHERE b.key = locked.key;
  GET DIAGNOSTICS renewed = ROW_COUNT;
  RETURN renewed;
END $$;

-- Returns the sizes of blobs in the order of p_keys, null for those not held, and the newest
-- number among them. The leases are written before that is said. p_use:
-- federation.core.uses.Use.
CREATE OR REPLACE FUNCTION federation_find(
  p_keys bytea[], p_use int, p_granularity bigint,
  OUT sizes bigint[], OUT newest bigint, OUT token uuid
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  now bigint;
  stale bytea[];
BEGIN
  SELECT now_ms INTO now FROM clock;
  IF NOT FOUND THEN -- a dump is being restored below the nodes: nothing is known to be missing
    RAISE EXCEPTION 'its tables are empty; is it being restored?';
  END IF;
  LOOP
    SELECT array_agg(b.size ORDER BY k.at), max(b.seq), array_agg(b.key) FILTER (
      WHERE b.accessed < now - p_granularity OR (p_use = 2 AND b.era < now / 3600000)
    ) INTO sizes, newest, stale
    FROM unnest(p_keys) WITH ORDINALITY AS k(key, at) LEFT JOIN blob b ON b.key = k.key;
    EXIT WHEN p_use = 0 OR stale IS NULL;
    PERFORM federation_unsynced();
    -- One that was evicted meanwhile is not renewed; the next round finds it missing.
    EXIT WHEN federation_renew(stale, p_use, now) = cardinality(stale);
  END LOOP;
  token := federation_incarnation();
END $$;

-- Returns where the held ones of p_keys are, leased.
CREATE OR REPLACE FUNCTION federation_look_up(
  p_keys bytea[], p_use int, p_granularity bigint, p_bytes boolean
) RETURNS TABLE (key bytea, size bigint, seq bigint, attempt bytea, parts bytea, data bytea)
LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
  IF p_use > 0 THEN
    PERFORM federation_find(p_keys, p_use, p_granularity);
  END IF;
  RETURN QUERY
    SELECT b.key, b.size, b.seq, b.attempt, b.parts, s.data
    FROM unnest(p_keys) AS k(key) JOIN blob b ON b.key = k.key
    LEFT JOIN small s ON p_bytes AND b.attempt IS NULL AND s.seq = b.seq;
END $$;

-- Gives a new number and a new source to those of p_keys that only an upstream gave, as a client
-- or a peer has sent them now: they are logged anew. Returns the newest number. p_from and the
-- arrays after it: as for federation_insert.
CREATE OR REPLACE FUNCTION federation_take_over(
  p_keys bytea[], p_from bigint[], p_sources bigint[], p_vias text[], p_origins text[],
  p_wall float8
) RETURNS bigint
LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  pulled record;
  taken site;
BEGIN
  PERFORM FROM unnest(p_keys, p_from) AS i(key, came) JOIN blob b ON b.key = i.key
  WHERE b.source = 1 AND p_sources[i.came] <> 1 ORDER BY b.key FOR NO KEY UPDATE OF b;
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  SELECT * INTO taken FROM site FOR UPDATE;
  FOR pulled IN
    SELECT b.key, b.size, b.seq, b.attempt, i.came
    FROM unnest(p_keys, p_from) AS i(key, came) JOIN blob b ON b.key = i.key
    WHERE b.source = 1 AND p_sources[i.came] <> 1 ORDER BY b.key FOR NO KEY UPDATE OF b
  LOOP
    taken.seq := taken.seq + 1;
    taken.logged := taken.logged + pulled.size;
    UPDATE blob SET seq = taken.seq, source = p_sources[pulled.came] WHERE key = pulled.key;
    UPDATE small SET seq = taken.seq WHERE pulled.attempt IS NULL AND seq = pulled.seq;
    INSERT INTO log VALUES (taken.seq, 0, '', pulled.key, pulled.size, p_wall,
      p_sources[pulled.came], p_vias[pulled.came], p_origins[pulled.came], taken.logged);
  END LOOP;
  UPDATE site SET seq = taken.seq, logged = taken.logged;
  RETURN taken.seq;
END $$;

-- Leases those of p_keys that are held, as a repeated upload of them does. Returns as
-- federation_find.
CREATE OR REPLACE FUNCTION federation_accept_held(
  p_keys bytea[], p_source int, p_via text, p_origin text, p_wall float8, p_granularity bigint,
  OUT sizes bigint[], OUT newest bigint, OUT token uuid
) LANGUAGE plpgsql AS $$
DECLARE
  came bigint[] := array_fill(1::bigint, ARRAY[cardinality(p_keys)]);
BEGIN
  PERFORM federation_unsynced();
  SELECT f.sizes, f.newest, f.token INTO sizes, newest, token
  FROM federation_find(p_keys, 2, p_granularity) f;
  newest := greatest(newest, federation_take_over(
    p_keys, came, ARRAY[p_source::bigint], ARRAY[p_via], ARRAY[p_origin], p_wall));
END $$;

-- Makes verified blobs visible. p_keys: sorted, each once. p_data: null where the bytes are in
-- the object of p_attempts. p_attempts, p_parts: null where no blob has an object. p_from: which
-- of the provenances p_sources, p_vias, p_origins, p_unused (ms). outcomes: see Insertion in
-- rows.py; null: all are stored.
CREATE OR REPLACE FUNCTION federation_insert(
  p_keys bytea[], p_sizes bigint[], p_data bytea[], p_attempts bytea[], p_parts bytea[],
  p_from bigint[], p_sources bigint[], p_vias text[], p_origins text[], p_unused bigint[],
  p_wall float8, p_granularity bigint, p_lease bigint, p_quota bigint,
  OUT outcomes bigint[], OUT newest bigint, OUT token uuid
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  now bigint;
  before site;
  room bigint;
  barred bytea[]; -- keys that are not stored
  added record;
  orphaned bigint;
BEGIN
  PERFORM federation_unsynced();
  SELECT now_ms INTO now FROM clock;
  PERFORM federation_find(p_keys, CASE WHEN 0 = ALL (p_unused) THEN 2 ELSE 1 END, p_granularity);
  SELECT * INTO before FROM site FOR UPDATE; -- from here on nobody else inserts
  IF before.purges > 0 THEN -- only clients bring back what was purged
    SELECT array_agg(p.key) INTO barred FROM federation_purged_blobs(p_keys) AS p(key)
    JOIN unnest(p_keys, p_from) AS i(key, came) ON i.key = p.key WHERE p_sources[i.came] <> 0;
  END IF;
  IF EXISTS (SELECT FROM unnest(p_attempts) AS attempt WHERE attempt IS NOT NULL) THEN
    -- This call is made a second time, and in between the blob was purged.
    SELECT array_cat(barred, array_agg(g.key)) INTO barred
    FROM unnest(p_keys, p_attempts) AS i(key, attempt)
    JOIN gone g ON g.key = i.key AND g.attempt = i.attempt;
  END IF;
  room := coalesce(p_quota, 9e18::bigint) - federation_cost(before);
  WITH absent AS MATERIALIZED (
    SELECT i.*, before.seq + row_number() OVER w AS seq, sum(i.size) OVER w AS bytes,
      sum(i.size + 256) OVER w AS cost
    FROM unnest(p_keys, p_sizes, p_data, p_attempts, p_parts, p_from) WITH ORDINALITY
      AS i(key, size, data, attempt, parts, came, at)
    LEFT JOIN blob b ON b.key = i.key
    WHERE b.key IS NULL AND (barred IS NULL OR i.key <> ALL (barred)) WINDOW w AS (ORDER BY i.at)
  ), fits AS MATERIALIZED (
    SELECT * FROM absent WHERE cost <= room
  ), into_small AS (
    INSERT INTO small SELECT f.seq, f.data FROM fits f WHERE f.attempt IS NULL
  ), into_blob AS (
    INSERT INTO blob SELECT f.key, f.size, f.seq, now, (now - p_unused[f.came]) / 3600000,
      p_sources[f.came], f.attempt, coalesce(f.parts, '') FROM fits f
  ), into_log AS (
    INSERT INTO log SELECT f.seq, 0, '', f.key, f.size, p_wall, p_sources[f.came], p_vias[f.came],
      p_origins[f.came], before.logged + f.bytes FROM fits f
  )
  SELECT count(*) AS blobs, coalesce(max(f.bytes), 0) AS bytes INTO added FROM fits f;
  newest := before.seq + added.blobs;
  IF added.blobs > 0 THEN
    UPDATE site SET seq = newest, logged = logged + added.bytes, bytes = bytes + added.bytes,
      blobs = blobs + added.blobs;
    IF before.purges > 0 THEN
      PERFORM federation_allow_pushed(p_keys, p_wall);
    END IF;
  END IF;
  IF added.blobs < cardinality(p_keys) THEN
    SELECT array_agg(CASE WHEN i.key = ANY (barred) THEN 0 WHEN b.key IS NULL THEN 2
        WHEN b.seq > before.seq OR b.attempt = i.attempt THEN 1 ELSE 0 END ORDER BY i.at),
      max(b.seq)
    INTO outcomes, newest
    FROM unnest(p_keys, p_attempts) WITH ORDINALITY AS i(key, attempt, at)
    LEFT JOIN blob b ON b.key = i.key;
    newest := greatest(newest,
      federation_take_over(p_keys, p_from, p_sources, p_vias, p_origins, p_wall));
    WITH orphans AS (
      INSERT INTO gone SELECT i.key, i.attempt, i.size,
        now + CASE WHEN i.key = ANY (barred) THEN 0 ELSE p_lease END
      FROM unnest(p_keys, p_attempts, p_sizes) AS i(key, attempt, size)
      LEFT JOIN blob b ON b.key = i.key
      WHERE i.attempt IS NOT NULL AND b.attempt IS DISTINCT FROM i.attempt
      ON CONFLICT DO NOTHING RETURNING gone.size
    )
    SELECT sum(size) INTO orphaned FROM orphans;
    IF orphaned > 0 THEN
      UPDATE site SET gone = gone + orphaned;
    END IF;
  END IF;
  token := federation_incarnation();
END $$;

-- Makes verified small blobs visible, if none of them is held or was purged and all have room.
-- Otherwise newest is null and nothing is stored: federation_insert then compares each blob. About
-- 32 of the keys are looked up first, as all blobs of a repeated batch are held; the primary key
-- finds any other one that is held. p_keys: sorted, each once. p_ends: the sum of the sizes up to
-- each. p_from: null where all are of the first provenance; it and the other arrays are as for
-- federation_insert.
CREATE OR REPLACE FUNCTION federation_insert_new(
  p_keys bytea[], p_ends bigint[], p_data bytea[], p_from bigint[], p_sources bigint[],
  p_vias text[], p_origins text[], p_unused bigint[], p_wall float8, p_quota bigint,
  OUT newest bigint, OUT token uuid
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  added bigint := cardinality(p_keys);
  size bigint := p_ends[added];
  patience text := current_setting('lock_timeout');
  now bigint;
  before site;
BEGIN
  PERFORM FROM generate_series(1, added, 1 + added / 32) AS at JOIN blob b ON b.key = p_keys[at];
  IF FOUND THEN
    RETURN;
  END IF;
  PERFORM federation_unsynced();
  SELECT now_ms INTO now FROM clock;
  SELECT * INTO before FROM site FOR UPDATE; -- from here on nobody else inserts
  IF federation_cost(before) + size + 256 * added > p_quota THEN
    RETURN;
  END IF;
  IF before.purges > 0 AND EXISTS (SELECT FROM federation_purged_blobs(p_keys)) THEN
    RETURN;
  END IF;
  -- A transaction that is removing one of these keys waits for the row site, which is locked here,
  -- and the insertion waits for that transaction: not for long.
  PERFORM set_config('lock_timeout', '20ms', true);
  BEGIN
    INSERT INTO blob SELECT i.key, p_ends[i.at] - coalesce(p_ends[i.at - 1], 0),
      before.seq + i.at, now, (now - p_unused[coalesce(p_from[i.at], 1)]) / 3600000,
      p_sources[coalesce(p_from[i.at], 1)], NULL, ''
    FROM unnest(p_keys) WITH ORDINALITY AS i(key, at);
  EXCEPTION WHEN unique_violation OR lock_not_available THEN
    RETURN;
  END;
  PERFORM set_config('lock_timeout', patience, true);
  INSERT INTO small SELECT before.seq + i.at, i.data
  FROM unnest(p_data) WITH ORDINALITY AS i(data, at);
  INSERT INTO log SELECT before.seq + i.at, 0, '', i.key,
    p_ends[i.at] - coalesce(p_ends[i.at - 1], 0), p_wall, p_sources[coalesce(p_from[i.at], 1)],
    p_vias[coalesce(p_from[i.at], 1)], p_origins[coalesce(p_from[i.at], 1)],
    before.logged + p_ends[i.at]
  FROM unnest(p_keys) WITH ORDINALITY AS i(key, at);
  newest := before.seq + added;
  UPDATE site SET seq = newest, logged = logged + size, bytes = bytes + size, blobs = blobs + added;
  token := federation_incarnation();
END $$;

-- Takes damaged blobs out of sight, and returns how many were held. p_seqs: of the rows that were
-- found damaged; a blob that was uploaded again since has another one, and stays.
CREATE OR REPLACE FUNCTION federation_set_aside(
  p_keys bytea[], p_seqs bigint[], p_reason text, p_wall float8, p_lease bigint, p_kept bigint
) RETURNS bigint LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  now bigint;
  total record;
BEGIN
  SELECT now_ms INTO now FROM clock;
  WITH locked AS MATERIALIZED (
    SELECT b.key FROM unnest(p_keys, p_seqs) AS k(key, seq)
    JOIN blob b ON b.key = k.key AND b.seq = k.seq ORDER BY b.key FOR UPDATE OF b
  ), removed AS (
    DELETE FROM blob b USING locked WHERE b.key = locked.key RETURNING b.*
  ), bytes AS (
    DELETE FROM small USING removed r WHERE r.attempt IS NULL AND small.seq = r.seq
  ), record AS (
    INSERT INTO quarantine (key, size, reason, found)
    SELECT r.key, r.size, p_reason, p_wall FROM removed r
  ), objects AS (
    INSERT INTO gone SELECT r.key, r.attempt, r.size, now + p_lease FROM removed r
    WHERE r.attempt IS NOT NULL ON CONFLICT DO NOTHING RETURNING size
  )
  SELECT count(*) AS blobs, coalesce(sum(size), 0) AS bytes, array_agg(key) AS keys,
    array_agg(size) AS sizes, array_agg(source::bigint) AS sources, array_agg(kept) AS kept,
    (SELECT coalesce(sum(size), 0) FROM objects) AS gone INTO total FROM removed;
  IF total.blobs > 0 THEN
    UPDATE site SET blobs = blobs - total.blobs, bytes = bytes - total.bytes,
      gone = gone + total.gone, presence = presence + 1;
    PERFORM federation_add_lost(total.keys, total.sizes, total.sources, p_reason, p_wall, p_kept);
    PERFORM federation_kept_blob_gone(k.kept, k.size)
    FROM unnest(total.kept, total.sizes) AS k(kept, size) WHERE k.kept IS NOT NULL;
    DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - 200;
  END IF;
  RETURN total.blobs;
END $$;
