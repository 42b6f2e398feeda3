-- What keeps entries and blobs for pins: see federation/storage/pin_tables.py. Times are site time.

-- Whether a keeping is there whose pin is in force.
CREATE OR REPLACE FUNCTION federation_is_kept_by(p_kept bigint) RETURNS boolean
LANGUAGE sql STABLE AS $$
  SELECT EXISTS (
    SELECT FROM keeping k JOIN pin p ON p.id = k.pin AND NOT p.removed WHERE k.id = p_kept)
$$;

-- Adds to what a keeping counts (negative: takes away from it), and as much to the sum over all of
-- them. Neither falls below 0: an entry that has grown since it was counted is taken away with its
-- present size.
CREATE OR REPLACE FUNCTION federation_count_kept(
  p_keeping bigint, p_bytes bigint, p_blobs bigint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  before bigint;
BEGIN
  PERFORM FROM pinned FOR UPDATE;
  SELECT bytes INTO before FROM keeping WHERE id = p_keeping;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  UPDATE keeping SET bytes = greatest(0, before + p_bytes), blobs = greatest(0, blobs + p_blobs)
  WHERE id = p_keeping;
  UPDATE pinned SET bytes = greatest(0, bytes + greatest(0, before + p_bytes) - before);
END $$;

-- Notes that a kept blob of p_size was purged, or set aside as damaged.
CREATE OR REPLACE FUNCTION federation_kept_blob_gone(p_kept bigint, p_size bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_count_kept(p_kept, -p_size - 256, -1);
  UPDATE keeping SET state = 1, missing = missing + 1, due = 0
  WHERE id = p_kept AND pin IS NOT NULL;
END $$;

-- Notes that a kept entry was purged: what it named is kept for it no longer, by any pin, and is
-- given back a day later (RETURN_MS in pin_tables.py).
CREATE OR REPLACE FUNCTION federation_kept_entry_gone(
  p_kept bigint, p_kind smallint, p_instance bytea, p_name bytea, p_size bigint
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_count_kept(p_kept, -p_size - 240, 0);
  UPDATE keeping SET pin = NULL, due = (SELECT now_ms + 86400000 FROM clock)
  WHERE kind = p_kind AND instance = p_instance AND name = p_name AND pin IS NOT NULL;
END $$;

-- Returns what keeps the present value of an entry for a pin (keeping: null if one of the two is
-- gone), and keeps the entry itself; fits: false if pins would take more than p_most. What kept an
-- earlier value ends in p_return ms. p_kind 0: of a pinned blob.
CREATE OR REPLACE FUNCTION federation_begin_keeping(
  p_pin bigint, p_kind bigint, p_instance bytea, p_name bytea, p_most bigint, p_return bigint,
  OUT keeping bigint, OUT seq bigint, OUT tries int, OUT fits boolean
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  held record;
  taken bigint;
BEGIN
  PERFORM federation_unsynced();
  SELECT e.seq, e.kept, octet_length(e.value) + octet_length(e.label) + 240 AS cost INTO held
  FROM entry e WHERE e.kind = p_kind AND e.instance = p_instance AND e.name = p_name
  FOR NO KEY UPDATE;
  SELECT bytes INTO taken FROM pinned FOR UPDATE;
  fits := true;
  seq := CASE WHEN p_kind = 0 THEN 0 ELSE held.seq END;
  IF NOT EXISTS (SELECT FROM pin WHERE id = p_pin AND NOT removed) THEN
    seq := NULL; -- it was removed while entries were looked at for it
  END IF;
  UPDATE keeping k SET pin = NULL, due = (SELECT now_ms FROM clock) + p_return
  WHERE k.pin = p_pin AND k.kind = p_kind AND k.instance = p_instance AND k.name = p_name
    AND k.seq IS DISTINCT FROM federation_begin_keeping.seq;
  IF seq IS NULL THEN
    RETURN;
  END IF;
  SELECT k.id, k.tries INTO keeping, tries FROM keeping k
  WHERE k.pin = p_pin AND k.kind = p_kind AND k.instance = p_instance AND k.name = p_name;
  IF keeping IS NULL THEN
    INSERT INTO keeping AS k (pin, kind, instance, name, seq)
    VALUES (p_pin, p_kind, p_instance, p_name, federation_begin_keeping.seq)
    RETURNING k.id, k.tries INTO keeping, tries;
  END IF;
  IF p_kind = 0 OR federation_is_kept_by(held.kept) THEN
    RETURN;
  END IF;
  IF held.kept IS NULL AND taken + held.cost > p_most THEN
    fits := false;
    RETURN;
  END IF;
  PERFORM federation_count_kept(held.kept, -held.cost, 0);
  PERFORM federation_count_kept(keeping, held.cost, 0);
  UPDATE entry e SET kept = keeping,
    era = e.era + CASE WHEN held.kept IS NULL THEN 1073741824 ELSE 0 END
  WHERE e.kind = p_kind AND e.instance = p_instance AND e.name = p_name;
END $$;

-- Returns which of p_keys are held and not kept, and which are missing.
CREATE OR REPLACE FUNCTION federation_look_for_keeping(
  p_keys bytea[], OUT free bytea[], OUT missing bytea[]
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
  SELECT array_agg(b.key) FILTER (WHERE b.key IS NOT NULL AND NOT federation_is_kept_by(b.kept)),
    array_agg(i.key) FILTER (WHERE b.key IS NULL)
  INTO free, missing FROM unnest(p_keys) AS i(key) LEFT JOIN blob b ON b.key = i.key;
END $$;

-- Keeps those of p_keys that nothing keeps, if pins then take p_most at most; fits: false, and
-- nothing was kept. Keeps nothing if the pin was removed meanwhile.
CREATE OR REPLACE FUNCTION federation_keep(
  p_keeping bigint, p_keys bytea[], p_most bigint, OUT fits boolean, OUT missing bytea[]
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  free bytea[];
  taken bigint;
  added record;
  moved record;
BEGIN
  PERFORM federation_unsynced();
  PERFORM FROM unnest(p_keys) AS i(key) JOIN blob b ON b.key = i.key
  ORDER BY b.key FOR NO KEY UPDATE OF b;
  SELECT bytes INTO taken FROM pinned FOR UPDATE;
  SELECT l.free, l.missing INTO free, missing FROM federation_look_for_keeping(p_keys) l;
  fits := true;
  IF NOT federation_is_kept_by(p_keeping) OR free IS NULL THEN
    RETURN;
  END IF;
  SELECT count(*) AS blobs, sum(b.size + 256)::bigint AS bytes,
    coalesce(sum(b.size + 256) FILTER (WHERE b.kept IS NULL), 0) AS fresh INTO added
  FROM unnest(free) AS i(key) JOIN blob b ON b.key = i.key;
  IF added.fresh > 0 AND taken + added.fresh > p_most THEN
    fits := false;
    RETURN;
  END IF;
  FOR moved IN
    SELECT b.kept, count(*) AS blobs, sum(b.size + 256)::bigint AS bytes
    FROM unnest(free) AS i(key) JOIN blob b ON b.key = i.key
    WHERE b.kept IS NOT NULL GROUP BY b.kept
  LOOP
    PERFORM federation_count_kept(moved.kept, -moved.bytes, -moved.blobs);
  END LOOP;
  PERFORM federation_count_kept(p_keeping, added.bytes, added.blobs);
  UPDATE blob b SET kept = p_keeping,
    era = b.era + CASE WHEN b.kept IS NULL THEN 1073741824 ELSE 0 END
  FROM unnest(free) AS i(key) WHERE b.key = i.key;
END $$;

-- Notes the result of a walk; what is incomplete is looked at again p_wait ms from now. Fails if the
-- database has crashed since p_life, as then what was kept during the walk may be lost (null: of a
-- trial, which finds that out at its end).
CREATE OR REPLACE FUNCTION federation_settle_keeping(
  p_keeping bigint, p_state int, p_missing bigint, p_wait bigint, p_life uuid
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_unsynced();
  PERFORM federation_check_life(p_life, 'pins were looked at');
  UPDATE keeping SET state = p_state, missing = p_missing,
    due = (SELECT now_ms FROM clock) + p_wait,
    tries = CASE WHEN missing = p_missing THEN tries + 1 ELSE 0 END
  WHERE id = p_keeping AND pin IS NOT NULL;
END $$;

-- Has keepings that were left out wait for p_wait ms more.
CREATE OR REPLACE FUNCTION federation_put_off(p_keepings bigint[], p_wait bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_unsynced();
  PERFORM FROM pinned FOR UPDATE;
  UPDATE keeping SET due = (SELECT now_ms FROM clock) + p_wait WHERE id = ANY (p_keepings);
END $$;

-- Notes that a pin leaves an entry out, until p_wait ms from now; what was kept of that already is
-- given back.
CREATE OR REPLACE FUNCTION federation_leave_out(p_keeping bigint, p_wait bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  k keeping;
BEGIN
  PERFORM federation_unsynced();
  PERFORM FROM pinned FOR UPDATE;
  SELECT * INTO k FROM keeping WHERE id = p_keeping AND pin IS NOT NULL;
  IF NOT FOUND THEN
    RETURN; -- the pin was removed meanwhile
  END IF;
  IF k.bytes > 0 THEN
    UPDATE keeping SET pin = NULL, due = 0 WHERE id = k.id;
    INSERT INTO keeping (pin, kind, instance, name, seq)
    VALUES (k.pin, k.kind, k.instance, k.name, k.seq) RETURNING id INTO k.id;
  END IF;
  UPDATE keeping SET state = 2, missing = 0, tries = k.tries + 1,
    due = (SELECT now_ms FROM clock) + p_wait
  WHERE id = k.id;
END $$;

-- Returns a pin that is gone or removed, and has keepings still; null: there is none. Looks once
-- for each pin, however many keepings it has.
CREATE OR REPLACE FUNCTION federation_ended_pin() RETURNS bigint LANGUAGE sql STABLE AS $$
  WITH RECURSIVE one(pin) AS (
    SELECT min(pin) FROM keeping
    UNION ALL SELECT (SELECT min(k.pin) FROM keeping k WHERE k.pin > one.pin) FROM one
    WHERE one.pin IS NOT NULL
  )
  SELECT one.pin FROM one WHERE one.pin IS NOT NULL
    AND NOT EXISTS (SELECT FROM pin p WHERE p.id = one.pin AND NOT p.removed) LIMIT 1
$$;

-- Ends up to p_rows keepings of a pin that is gone or removed, to be given back at once.
CREATE OR REPLACE FUNCTION federation_end_keepings(p_term bigint, p_life uuid, p_rows int)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  ended bigint;
BEGIN
  PERFORM federation_as_keeper(p_term, p_life);
  PERFORM FROM pinned FOR UPDATE;
  ended := federation_ended_pin();
  UPDATE keeping SET pin = NULL, due = 0 WHERE id IN (
    SELECT id FROM keeping WHERE pin = ended LIMIT p_rows);
END $$;

-- Marks up to p_rows keepings that have ended, and are to be given back once what all others need
-- was looked at; returns how many.
CREATE OR REPLACE FUNCTION federation_begin_return(p_term bigint, p_life uuid, p_rows int)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  marked bigint;
BEGIN
  PERFORM federation_as_keeper(p_term, p_life);
  PERFORM FROM pinned FOR UPDATE;
  UPDATE keeping SET state = 3 WHERE id IN (
    SELECT id FROM keeping WHERE pin IS NULL AND state = ANY ('{0, 1, 2}') LIMIT p_rows);
  GET DIAGNOSTICS marked = ROW_COUNT;
  RETURN marked;
END $$;

-- Lets eviction have those of the next p_rows kept blobs that are kept by keepings which
-- federation_begin_return has marked. Returns where to go on, null if there are no more. The last
-- use of a kept blob is known by its lease alone, as its era is not below the present hour.
CREATE OR REPLACE FUNCTION federation_give_back_blobs(
  p_term bigint, p_life uuid, p_rows int, INOUT p_era int, INOUT p_seq bigint
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  free bytea[];
BEGIN
  PERFORM federation_as_keeper(p_term, p_life);
  SELECT max(o.era), (array_agg(o.seq ORDER BY o.era DESC, o.seq DESC))[1],
    array_agg(o.key ORDER BY o.key) FILTER (WHERE EXISTS (
      SELECT FROM keeping k WHERE k.id = o.kept AND k.pin IS NULL AND k.state = 3))
  INTO p_era, p_seq, free FROM (
    SELECT b.era, b.seq, b.key, b.kept FROM blob b WHERE (b.era, b.seq) > (p_era, p_seq)
    ORDER BY b.era, b.seq LIMIT p_rows
  ) AS o;
  IF free IS NULL THEN
    RETURN;
  END IF;
  PERFORM FROM unnest(free) AS i(key) JOIN blob b ON b.key = i.key
  ORDER BY b.key FOR NO KEY UPDATE OF b;
  UPDATE blob b SET kept = NULL, era = greatest(b.era - 1073741824, b.accessed / 3600000)
  FROM unnest(free) AS i(key) WHERE b.key = i.key AND EXISTS (
    SELECT FROM keeping k WHERE k.id = b.kept AND k.pin IS NULL AND k.state = 3);
END $$;

-- Does the same for entries.
CREATE OR REPLACE FUNCTION federation_give_back_entries(
  p_term bigint, p_life uuid, p_rows int, INOUT p_era int, INOUT p_seq bigint
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  kinds smallint[];
  instances bytea[];
  names bytea[];
BEGIN
  PERFORM federation_as_keeper(p_term, p_life);
  SELECT max(o.era), (array_agg(o.seq ORDER BY o.era DESC, o.seq DESC))[1],
    array_agg(o.kind) FILTER (WHERE o.is_free), array_agg(o.instance) FILTER (WHERE o.is_free),
    array_agg(o.name) FILTER (WHERE o.is_free)
  INTO p_era, p_seq, kinds, instances, names FROM (
    SELECT e.era, e.seq, e.kind, e.instance, e.name, EXISTS (
      SELECT FROM keeping k WHERE k.id = e.kept AND k.pin IS NULL AND k.state = 3) AS is_free
    FROM entry e WHERE (e.era, e.seq) > (p_era, p_seq) ORDER BY e.era, e.seq LIMIT p_rows
  ) AS o;
  PERFORM FROM unnest(kinds, instances, names) AS i(kind, instance, name)
  JOIN entry e ON e.kind = i.kind AND e.instance = i.instance AND e.name = i.name
  ORDER BY e.kind, e.instance, e.name FOR NO KEY UPDATE OF e;
  UPDATE entry e SET kept = NULL, era = greatest(e.era - 1073741824, e.accessed / 3600000)
  FROM unnest(kinds, instances, names) AS i(kind, instance, name)
  WHERE e.kind = i.kind AND e.instance = i.instance AND e.name = i.name AND EXISTS (
    SELECT FROM keeping k WHERE k.id = e.kept AND k.pin IS NULL AND k.state = 3);
END $$;

-- Forgets up to p_rows keepings of which all was given back; returns how many.
CREATE OR REPLACE FUNCTION federation_forget_keepings(p_term bigint, p_life uuid, p_rows int)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  forgotten record;
BEGIN
  PERFORM federation_as_keeper(p_term, p_life);
  PERFORM FROM pinned FOR UPDATE;
  WITH gone AS (
    DELETE FROM keeping WHERE id IN (
      SELECT id FROM keeping WHERE pin IS NULL AND state = 3 LIMIT p_rows) RETURNING bytes
  )
  SELECT count(*) AS keepings, coalesce(sum(bytes), 0) AS bytes INTO forgotten FROM gone;
  UPDATE pinned SET bytes = greatest(0, bytes - forgotten.bytes);
  RETURN forgotten.keepings;
END $$;
