-- What programs of schema 3 made beside the tables: a site before it is upgraded.

CREATE FUNCTION federation_incarnation() RETURNS uuid LANGUAGE plpgsql AS $$
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

CREATE FUNCTION federation_unsynced() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
END $$;

CREATE FUNCTION federation_flush(OUT flushed bigint, OUT token uuid)
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true);
  SELECT seq INTO flushed FROM site;
  token := federation_incarnation();
  PERFORM pg_logical_emit_message(true, 'federation', '');
END $$;

CREATE FUNCTION federation_check_lead(p_role text, p_term bigint) RETURNS void
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

CREATE FUNCTION federation_cost(p_site site) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT p_site.bytes + p_site.gone + 256 * p_site.blobs + 240 * p_site.entries
$$;

CREATE FUNCTION federation_add_lost(
  p_keys bytea[], p_sizes bigint[], p_sources bigint[], p_reason text, p_wall float8, p_kept bigint
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO lost (key, size, source, reason, found, due)
  SELECT i.key, i.size, i.source, p_reason, p_wall, 0
  FROM unnest(p_keys, p_sizes, p_sources) AS i(key, size, source) ORDER BY i.key
  ON CONFLICT (key) DO UPDATE SET size = excluded.size, source = excluded.source,
    reason = excluded.reason, found = excluded.found, tries = 0, tried = 0, due = 0, note = '',
    back = NULL, origin = '';
  IF (SELECT count(*) FROM lost) > p_kept THEN
    DELETE FROM lost WHERE key IN (
      SELECT o.key FROM lost o ORDER BY o.back IS NOT NULL, o.found DESC OFFSET p_kept);
  END IF;
END $$;

CREATE FUNCTION federation_put_off(
  p_term bigint, p_keys bytea[], p_dues float8[], p_reasons text[], p_wall float8
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_check_lead('healing', p_term);
  UPDATE lost SET tries = tries + 1, tried = p_wall, due = a.due, note = a.reason
  FROM unnest(p_keys, p_dues, p_reasons) AS a(key, due, reason)
  WHERE lost.key = a.key AND lost.back IS NULL AND a.due IS NOT NULL;
  DELETE FROM lost USING unnest(p_keys, p_dues) AS a(key, due)
  WHERE lost.key = a.key AND a.due IS NULL;
END $$;

CREATE FUNCTION federation_note_back(p_term bigint, p_keys bytea[], p_wall float8)
RETURNS TABLE (back_key bytea, back_origin text) LANGUAGE plpgsql AS $$
DECLARE
  found record;
  before int;
BEGIN
  PERFORM federation_check_lead('healing', p_term);
  FOR found IN
    SELECT b.key, coalesce(l.via, '') AS via, coalesce(l.origin, '') AS origin
    FROM unnest(p_keys) AS k(key) JOIN blob b ON b.key = k.key LEFT JOIN log l ON l.seq = b.seq
    ORDER BY b.key
  LOOP
    UPDATE lost SET back = p_wall, origin = found.origin, due = NULL
    WHERE lost.key = found.key AND lost.back IS NULL RETURNING source INTO before;
    CONTINUE WHEN before IS NULL;
    IF before <> 1 THEN
      PERFORM federation_take_over(ARRAY[found.key], ARRAY[1::bigint], ARRAY[before::bigint],
        ARRAY[found.via], ARRAY[found.origin], p_wall);
    END IF;
    back_key := found.key;
    back_origin := found.origin;
    RETURN NEXT;
  END LOOP;
END $$;

CREATE FUNCTION federation_check_life(p_life uuid, p_while text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  IF federation_incarnation() <> p_life THEN
    RAISE EXCEPTION 'the database was restarted while %', p_while USING ERRCODE = 'FDL01';
  END IF;
END $$;

CREATE FUNCTION federation_as_keeper(p_term bigint, p_life uuid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_unsynced();
  PERFORM federation_check_lead('upkeep', p_term);
  PERFORM federation_check_life(p_life, 'pins were looked at');
END $$;

CREATE FUNCTION federation_check_pins(p_target bytea, p_most bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  others bigint;
BEGIN
  SELECT count(*) INTO others FROM pin WHERE NOT removed AND target <> p_target;
  IF others >= p_most THEN
    RAISE EXCEPTION 'there are % pins already; no more are possible', others
      USING ERRCODE = 'FDR01';
  END IF;
  IF NOT EXISTS (SELECT FROM pin WHERE NOT removed) THEN
    UPDATE pinned SET followed = (SELECT seq FROM site);
  END IF;
END $$;

CREATE FUNCTION federation_write_pin(
  p_pin pin, p_wall float8, p_most bigint, p_keep float8, p_kept int
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  number bigint;
BEGIN
  PERFORM FROM pinned FOR UPDATE;
  IF NOT p_pin.removed THEN
    PERFORM federation_check_pins(p_pin.target, p_most);
  END IF;
  UPDATE pinned SET seq = seq + 1 RETURNING seq INTO number;
  UPDATE site SET ticks = greatest(ticks, p_pin.ticks);
  UPDATE pin p SET label = p_pin.label, until = p_pin.until, note = p_pin.note, who = p_pin.who,
    at = p_pin.at, removed = p_pin.removed, ticks = p_pin.ticks, node = p_pin.node, seq = number,
    scanned = p.scanned AND NOT p.removed
  WHERE sha256(p.target) = sha256(p_pin.target);
  IF NOT FOUND THEN
    INSERT INTO pin (target, label, until, note, who, at, removed, ticks, node, seq)
    VALUES (p_pin.target, p_pin.label, p_pin.until, p_pin.note, p_pin.who, p_pin.at,
      p_pin.removed, p_pin.ticks, p_pin.node, number);
  END IF;
  IF p_pin.removed THEN
    DELETE FROM pin WHERE removed AND (at < p_wall - p_keep OR id IN (
      SELECT id FROM pin WHERE removed ORDER BY seq DESC OFFSET p_kept));
  END IF;
END $$;

CREATE FUNCTION federation_store_pins(
  p_targets bytea[], p_labels bytea[], p_untils float8[], p_notes bytea[], p_whos bytea[],
  p_ats float8[], p_removed boolean[], p_ticks bigint[], p_nodes text[], p_trial bigint,
  p_life uuid, p_wall float8, p_drift float8, p_most bigint, p_keep float8, p_kept int,
  OUT taken boolean[]
) LANGUAGE plpgsql AS $$
DECLARE
  s site;
  known pin;
  fresh pin;
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true);
  SELECT * INTO s FROM site FOR UPDATE;
  PERFORM FROM pinned FOR UPDATE;
  FOR i IN 1 .. cardinality(p_targets) LOOP
    SELECT * INTO known FROM pin p WHERE sha256(p.target) = sha256(p_targets[i]);
    taken[i] := CASE WHEN p_nodes[i] IS NULL
      THEN NOT p_removed[i] OR (known.id IS NOT NULL AND NOT known.removed)
      WHEN known.id IS NULL THEN p_untils[i] IS NULL OR p_untils[i] > p_wall
      ELSE (known.ticks, known.node COLLATE "C") < (p_ticks[i], p_nodes[i] COLLATE "C") END;
    CONTINUE WHEN NOT taken[i];
    fresh := known;
    fresh.target := p_targets[i];
    fresh.label := p_labels[i];
    fresh.until := p_untils[i];
    fresh.note := p_notes[i];
    fresh.who := p_whos[i];
    fresh.at := p_ats[i];
    fresh.removed := p_removed[i];
    fresh.ticks := p_ticks[i];
    fresh.node := p_nodes[i];
    IF p_nodes[i] IS NULL THEN
      fresh.node := s.site_id;
      fresh.ticks := greatest(federation_next_ticks(s.ticks, p_wall, p_drift), known.ticks + 1);
    END IF;
    s.ticks := greatest(s.ticks, fresh.ticks);
    IF p_trial IS NOT NULL THEN
      PERFORM federation_check_life(p_life, 'it was pinned; nothing was');
      DELETE FROM pin WHERE id = known.id;
      UPDATE pin SET target = fresh.target WHERE id = p_trial;
    END IF;
    PERFORM federation_write_pin(fresh, p_wall, p_most, p_keep, p_kept);
  END LOOP;
END $$;

CREATE FUNCTION federation_try_pin(
  p_target bytea, p_of bytea, p_label bytea, p_until float8, p_note bytea, p_who bytea,
  p_at float8, p_most bigint, OUT trial bigint, OUT token uuid
) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_unsynced();
  PERFORM FROM site FOR UPDATE;
  PERFORM FROM pinned FOR UPDATE;
  PERFORM federation_check_pins(p_of, p_most);
  IF EXISTS (SELECT FROM pin WHERE sha256(target) = sha256(p_target)) THEN
    RAISE EXCEPTION 'another command is pinning the same just now' USING ERRCODE = 'FDR01';
  END IF;
  INSERT INTO pin (target, label, until, note, who, at, ticks, node, scanned, tried)
  VALUES (p_target, p_label, p_until, p_note, p_who, p_at, 0, '', true,
    (SELECT now_ms FROM clock)) RETURNING id INTO trial;
  token := federation_incarnation();
END $$;

CREATE FUNCTION federation_end_pins(
  p_term bigint, p_life uuid, p_wall float8, p_tried bigint, p_keep float8, p_kept int
) RETURNS SETOF pin LANGUAGE plpgsql AS $$
DECLARE
  over pin;
BEGIN
  PERFORM federation_as_keeper(p_term, p_life);
  PERFORM set_config('synchronous_commit', 'on', true);
  PERFORM FROM site FOR UPDATE;
  PERFORM FROM pinned FOR UPDATE;
  DELETE FROM pin WHERE seq IS NULL AND NOT removed
    AND (until <= p_wall OR tried < (SELECT now_ms FROM clock) - p_tried);
  FOR over IN SELECT * FROM pin WHERE NOT removed AND until <= p_wall ORDER BY id LOOP
    RETURN NEXT over;
    over.removed := true;
    over.at := p_wall;
    PERFORM federation_write_pin(over, p_wall, 0, p_keep, p_kept);
  END LOOP;
END $$;

CREATE FUNCTION federation_set_followed(p_term bigint, p_life uuid, p_upto bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_as_keeper(p_term, p_life);
  UPDATE pinned SET followed = p_upto;
END $$;

CREATE FUNCTION federation_set_scanned(
  p_term bigint, p_life uuid, p_ids bigint[], p_seqs bigint[], p_scanned boolean
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_as_keeper(p_term, p_life);
  PERFORM FROM pinned FOR UPDATE;
  UPDATE pin p SET scanned = p_scanned FROM unnest(p_ids, p_seqs) AS r(id, seq)
  WHERE p.id = r.id AND p.seq IS NOT DISTINCT FROM r.seq;
END $$;

CREATE FUNCTION federation_is_kept_by(p_kept bigint) RETURNS boolean
LANGUAGE sql STABLE AS $$
  SELECT EXISTS (
    SELECT FROM keeping k JOIN pin p ON p.id = k.pin AND NOT p.removed WHERE k.id = p_kept)
$$;

CREATE FUNCTION federation_count_kept(
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

CREATE FUNCTION federation_kept_blob_gone(p_kept bigint, p_size bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_count_kept(p_kept, -p_size - 256, -1);
  UPDATE keeping SET state = 1, missing = missing + 1, due = 0
  WHERE id = p_kept AND pin IS NOT NULL;
END $$;

CREATE FUNCTION federation_kept_entry_gone(
  p_kept bigint, p_kind smallint, p_instance bytea, p_name bytea, p_size bigint
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_count_kept(p_kept, -p_size - 240, 0);
  UPDATE keeping SET pin = NULL, due = (SELECT now_ms + 86400000 FROM clock)
  WHERE kind = p_kind AND instance = p_instance AND name = p_name AND pin IS NOT NULL;
END $$;

CREATE FUNCTION federation_begin_keeping(
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
    seq := NULL;
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

CREATE FUNCTION federation_look_for_keeping(
  p_keys bytea[], OUT free bytea[], OUT missing bytea[]
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
  SELECT array_agg(b.key) FILTER (WHERE b.key IS NOT NULL AND NOT federation_is_kept_by(b.kept)),
    array_agg(i.key) FILTER (WHERE b.key IS NULL)
  INTO free, missing FROM unnest(p_keys) AS i(key) LEFT JOIN blob b ON b.key = i.key;
END $$;

CREATE FUNCTION federation_keep(
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

CREATE FUNCTION federation_settle_keeping(
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

CREATE FUNCTION federation_put_off(p_keepings bigint[], p_wait bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_unsynced();
  PERFORM FROM pinned FOR UPDATE;
  UPDATE keeping SET due = (SELECT now_ms FROM clock) + p_wait WHERE id = ANY (p_keepings);
END $$;

CREATE FUNCTION federation_leave_out(p_keeping bigint, p_wait bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  k keeping;
BEGIN
  PERFORM federation_unsynced();
  PERFORM FROM pinned FOR UPDATE;
  SELECT * INTO k FROM keeping WHERE id = p_keeping AND pin IS NOT NULL;
  IF NOT FOUND THEN
    RETURN;
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

CREATE FUNCTION federation_ended_pin() RETURNS bigint LANGUAGE sql STABLE AS $$
  WITH RECURSIVE one(pin) AS (
    SELECT min(pin) FROM keeping
    UNION ALL SELECT (SELECT min(k.pin) FROM keeping k WHERE k.pin > one.pin) FROM one
    WHERE one.pin IS NOT NULL
  )
  SELECT one.pin FROM one WHERE one.pin IS NOT NULL
    AND NOT EXISTS (SELECT FROM pin p WHERE p.id = one.pin AND NOT p.removed) LIMIT 1
$$;

CREATE FUNCTION federation_end_keepings(p_term bigint, p_life uuid, p_rows int)
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

CREATE FUNCTION federation_begin_return(p_term bigint, p_life uuid, p_rows int)
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

CREATE FUNCTION federation_give_back_blobs(
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

CREATE FUNCTION federation_give_back_entries(
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

CREATE FUNCTION federation_forget_keepings(p_term bigint, p_life uuid, p_rows int)
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

CREATE FUNCTION federation_next_ticks(p_last bigint, p_wall float8, p_drift float8)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT greatest(
    1 + CASE WHEN p_last > floor((p_wall + p_drift) * 1000)::bigint * 65536
      THEN floor((p_wall + p_drift / 2) * 1000)::bigint * 65536 ELSE p_last END,
    floor(p_wall * 1000)::bigint * 65536)
$$;

CREATE FUNCTION federation_record_purge(
  INOUT s site, p_purge purge, p_now bigint, p_most bigint
) LANGUAGE plpgsql AS $$
BEGIN
  s.purge_seq := s.purge_seq + 1;
  s.ticks := greatest(s.ticks, p_purge.ticks);
  UPDATE purge p SET size = p_purge.size, label = p_purge.label, who = p_purge.who,
    at = p_purge.at, allowed = p_purge.allowed, ticks = p_purge.ticks, node = p_purge.node,
    used = p_now, seq = s.purge_seq
  WHERE p.kind = p_purge.kind AND p.instance = p_purge.instance AND p.name = p_purge.name;
  IF NOT FOUND THEN
    IF s.purges >= p_most THEN
      RAISE EXCEPTION '% purges are remembered; no more fit (storage.purge-keep)', s.purges
        USING ERRCODE = 'FDF01';
    END IF;
    s.purges := s.purges + 1;
    p_purge.used := p_now;
    p_purge.seq := s.purge_seq;
    INSERT INTO purge SELECT (p_purge).*;
  END IF;
END $$;

CREATE FUNCTION federation_purge_blob(
  INOUT s site, p_key bytea, p_now bigint, OUT removed bigint
) LANGUAGE plpgsql AS $$
DECLARE
  held blob;
BEGIN
  DELETE FROM lost WHERE key = p_key;
  DELETE FROM quarantine WHERE key = p_key;
  UPDATE gone SET due_ms = p_now WHERE key = p_key;
  DELETE FROM blob WHERE key = p_key RETURNING * INTO held;
  IF held.key IS NULL THEN
    RETURN;
  END IF;
  removed := held.size;
  IF held.kept IS NOT NULL THEN
    PERFORM federation_kept_blob_gone(held.kept, held.size);
  END IF;
  s.blobs := s.blobs - 1;
  s.bytes := s.bytes - held.size;
  IF held.attempt IS NULL THEN
    DELETE FROM small WHERE seq = held.seq;
  ELSE
    INSERT INTO gone VALUES (p_key, held.attempt, held.size, p_now);
    s.gone := s.gone + held.size;
  END IF;
END $$;

CREATE FUNCTION federation_purge(
  p_kinds bigint[], p_instances bytea[], p_names bytea[], p_sizes bigint[], p_labels bytea[],
  p_who bytea[], p_ats float8[], p_allowed boolean[], p_ticks bigint[], p_nodes text[],
  p_wall float8, p_drift float8, p_most bigint,
  OUT taken boolean[], OUT sizes bigint[], OUT labels bytea[], OUT token uuid
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  now bigint;
  s site;
  known purge;
  fresh purge;
  held record;
  found record;
  keeper bigint;
BEGIN
  PERFORM federation_unsynced();
  SELECT now_ms INTO now FROM clock;
  PERFORM FROM unnest(p_kinds, p_names) AS k(kind, name) JOIN blob b ON b.key = k.name
  WHERE k.kind = 0 ORDER BY b.key FOR UPDATE OF b;
  PERFORM FROM unnest(p_kinds, p_instances, p_names) AS k(kind, instance, name)
  JOIN entry e ON e.kind = k.kind AND e.instance = k.instance AND e.name = k.name
  ORDER BY e.kind, e.instance, e.name FOR UPDATE OF e;
  PERFORM FROM gone g WHERE g.key = ANY (p_names) ORDER BY g.key, g.attempt FOR UPDATE;
  SELECT * INTO s FROM site FOR UPDATE;
  FOR i IN 1 .. cardinality(p_names) LOOP
    SELECT * INTO known FROM purge p
    WHERE p.kind = p_kinds[i] AND p.instance = p_instances[i] AND p.name = p_names[i];
    SELECT e.ticks, e.node, e.label, octet_length(e.value) + octet_length(e.label) AS size INTO held
    FROM entry e
    WHERE e.kind = p_kinds[i] AND e.instance = p_instances[i] AND e.name = p_names[i];
    taken[i] := p_nodes[i] IS NULL OR known.seq IS NULL
      OR (known.ticks, known.node COLLATE "C") < (p_ticks[i], p_nodes[i] COLLATE "C");
    sizes[i] := NULL;
    labels[i] := CASE WHEN p_labels[i] = '' THEN coalesce(held.label, '') ELSE p_labels[i] END;
    CONTINUE WHEN NOT taken[i];
    fresh := ROW(p_kinds[i], p_instances[i], p_names[i], p_sizes[i], labels[i], p_who[i], p_ats[i],
      p_allowed[i], p_ticks[i], p_nodes[i], 0, 0);
    IF p_nodes[i] IS NULL THEN
      fresh.node := s.site_id;
      fresh.ticks := greatest(federation_next_ticks(s.ticks, p_wall, p_drift), held.ticks + 1,
        known.ticks + 1);
    END IF;
    s := federation_record_purge(s, fresh, now, p_most);
    CONTINUE WHEN p_allowed[i];
    IF p_kinds[i] = 0 THEN
      SELECT * INTO found FROM federation_purge_blob(s, p_names[i], now);
      s := found.s;
      sizes[i] := found.removed;
    ELSIF (held.ticks, held.node COLLATE "C") < (fresh.ticks, fresh.node COLLATE "C") THEN
      DELETE FROM entry e
      WHERE e.kind = p_kinds[i] AND e.instance = p_instances[i] AND e.name = p_names[i]
      RETURNING e.kept INTO keeper;
      IF keeper IS NOT NULL THEN
        PERFORM federation_kept_entry_gone(keeper, p_kinds[i]::smallint, p_instances[i], p_names[i],
          held.size);
      END IF;
      sizes[i] := held.size;
      s.entries := s.entries - 1;
      s.bytes := s.bytes - held.size;
    END IF;
  END LOOP;
  UPDATE site SET purges = s.purges, purge_seq = s.purge_seq, ticks = s.ticks, blobs = s.blobs,
    entries = s.entries, bytes = s.bytes, gone = s.gone,
    presence = presence + CASE WHEN true = ANY (taken) THEN 1 ELSE 0 END;
  token := federation_incarnation();
END $$;

CREATE FUNCTION federation_purged_blobs(p_keys bytea[]) RETURNS SETOF bytea
LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  now bigint;
BEGIN
  SELECT now_ms INTO now FROM clock;
  PERFORM federation_unsynced();
  WITH old AS MATERIALIZED (
    SELECT p.name FROM unnest(p_keys) AS k(key)
    JOIN purge p ON p.kind = 0 AND p.instance = '' AND p.name = k.key
    WHERE NOT p.allowed AND p.used < now - 3600000 ORDER BY p.name FOR NO KEY UPDATE OF p
  )
  UPDATE purge p SET used = now FROM old
  WHERE p.kind = 0 AND p.instance = '' AND p.name = old.name;
  RETURN QUERY
    SELECT p.name FROM unnest(p_keys) AS k(key)
    JOIN purge p ON p.kind = 0 AND p.instance = '' AND p.name = k.key WHERE NOT p.allowed;
END $$;

CREATE FUNCTION federation_purged_entries(
  p_kinds bigint[], p_instances bytea[], p_names bytea[]
) RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  now bigint;
  at bigint;
  found record;
BEGIN
  SELECT now_ms INTO now FROM clock;
  PERFORM federation_unsynced();
  FOR found IN
    SELECT k.at, p.kind, p.instance, p.name, p.used
    FROM unnest(p_kinds, p_instances, p_names) WITH ORDINALITY AS k(kind, instance, name, at)
    JOIN purge p ON p.kind = k.kind AND p.instance = k.instance AND p.name = k.name
    LEFT JOIN entry e ON e.kind = p.kind AND e.instance = p.instance AND e.name = p.name
    WHERE e.ticks IS NULL OR (e.ticks, e.node COLLATE "C") < (p.ticks, p.node COLLATE "C")
    ORDER BY p.kind, p.instance, p.name
  LOOP
    IF found.used < now - 3600000 THEN
      UPDATE purge p SET used = now
      WHERE p.kind = found.kind AND p.instance = found.instance AND p.name = found.name;
    END IF;
    RETURN NEXT found.at;
  END LOOP;
END $$;

CREATE FUNCTION federation_allow_pushed(p_keys bytea[], p_wall float8) RETURNS void
LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  s site;
  pushed purge;
BEGIN
  SELECT * INTO s FROM site FOR UPDATE;
  FOR pushed IN
    SELECT p.* FROM unnest(p_keys) AS k(key) JOIN blob b ON b.key = k.key
    JOIN purge p ON p.kind = 0 AND p.instance = '' AND p.name = b.key
    WHERE NOT p.allowed ORDER BY p.name
  LOOP
    pushed.allowed := true;
    pushed.node := s.site_id;
    pushed.ticks := greatest(federation_next_ticks(s.ticks, p_wall, 300), pushed.ticks + 1);
    s := federation_record_purge(s, pushed, (SELECT now_ms FROM clock), s.purges);
  END LOOP;
  UPDATE site SET purge_seq = s.purge_seq, ticks = s.ticks;
END $$;

CREATE FUNCTION federation_find_offered(
  p_keys bytea[], p_granularity bigint,
  OUT sizes bigint[], OUT newest bigint, OUT token uuid
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  missing bytea[];
  purged bytea[];
BEGIN
  SELECT f.sizes, f.newest, f.token INTO sizes, newest, token
  FROM federation_find(p_keys, 1, p_granularity) f;
  IF array_position(sizes, NULL) IS NULL OR NOT EXISTS (SELECT FROM purge) THEN
    RETURN;
  END IF;
  SELECT array_agg(k.key) INTO missing FROM unnest(p_keys, sizes) AS k(key, size)
  WHERE k.size IS NULL;
  SELECT array_agg(key) INTO purged FROM federation_purged_blobs(missing) AS key;
  IF purged IS NOT NULL THEN
    SELECT array_agg(coalesce(k.size, p.size) ORDER BY k.at) INTO sizes
    FROM unnest(p_keys, sizes) WITH ORDINALITY AS k(key, size, at)
    LEFT JOIN purge p ON k.size IS NULL AND p.kind = 0 AND p.instance = '' AND p.name = k.key
      AND NOT p.allowed;
  END IF;
END $$;

CREATE FUNCTION federation_held_like(p_names bytea[], p_highest bytea)
RETURNS SETOF bytea LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  purged bytea[];
BEGIN
  RETURN QUERY SELECT k.name FROM unnest(p_names) AS k(name)
    WHERE EXISTS (SELECT FROM blob b WHERE b.key >= k.name AND b.key <= k.name || p_highest);
  IF EXISTS (SELECT FROM purge) THEN
    SELECT array_agg(p.name) INTO purged FROM unnest(p_names) AS k(name)
    JOIN purge p ON p.kind = 0 AND p.instance = '' AND p.name >= k.name
      AND p.name <= k.name || p_highest AND NOT p.allowed;
    RETURN QUERY SELECT k.name FROM unnest(p_names) AS k(name)
      WHERE EXISTS (SELECT FROM federation_purged_blobs(purged) AS f(key)
        WHERE f.key >= k.name AND f.key <= k.name || p_highest);
  END IF;
END $$;

CREATE FUNCTION federation_forget_purges(
  p_role text, p_term bigint, p_keep bigint, p_rows int
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  s site;
  told bigint;
  forgotten record;
BEGIN
  PERFORM federation_check_lead(p_role, p_term);
  PERFORM federation_unsynced();
  IF NOT EXISTS (SELECT FROM purge) THEN
    RETURN 0;
  END IF;
  SELECT * INTO s FROM site FOR UPDATE;
  SELECT coalesce(min(purges), s.purge_seq) INTO told FROM peer
  WHERE lane = 'always' AND (node_id <> '' OR last_success = 0);
  WITH old AS (
    DELETE FROM purge p USING (
      SELECT kind, instance, name FROM purge
      WHERE used < (SELECT now_ms FROM clock) - p_keep AND seq <= told LIMIT p_rows
    ) AS o
    WHERE p.kind = o.kind AND p.instance = o.instance AND p.name = o.name RETURNING p.seq
  )
  SELECT count(*) AS records, coalesce(max(seq), 0) AS newest INTO forgotten FROM old;
  IF forgotten.records > 0 THEN
    UPDATE site SET purges = purges - forgotten.records,
      purges_forgotten = greatest(purges_forgotten, forgotten.newest);
  END IF;
  RETURN forgotten.records;
END $$;

CREATE FUNCTION federation_renew(p_keys bytea[], p_use int, p_now bigint) RETURNS int
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

CREATE FUNCTION federation_find(
  p_keys bytea[], p_use int, p_granularity bigint,
  OUT sizes bigint[], OUT newest bigint, OUT token uuid
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  now bigint;
  stale bytea[];
BEGIN
  SELECT now_ms INTO now FROM clock;
  LOOP
    SELECT array_agg(b.size ORDER BY k.at), max(b.seq), array_agg(b.key) FILTER (
      WHERE b.accessed < now - p_granularity OR (p_use = 2 AND b.era < now / 3600000)
    ) INTO sizes, newest, stale
    FROM unnest(p_keys) WITH ORDINALITY AS k(key, at) LEFT JOIN blob b ON b.key = k.key;
    EXIT WHEN p_use = 0 OR stale IS NULL;
    PERFORM federation_unsynced();
   
    EXIT WHEN federation_renew(stale, p_use, now) = cardinality(stale);
  END LOOP;
  token := federation_incarnation();
END $$;

CREATE FUNCTION federation_look_up(
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

CREATE FUNCTION federation_take_over(
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

CREATE FUNCTION federation_accept_held(
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

CREATE FUNCTION federation_insert(
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
  barred bytea[];
  added record;
  orphaned bigint;
BEGIN
  PERFORM federation_unsynced();
  SELECT now_ms INTO now FROM clock;
  PERFORM federation_find(p_keys, CASE WHEN 0 = ALL (p_unused) THEN 2 ELSE 1 END, p_granularity);
  SELECT * INTO before FROM site FOR UPDATE;
  IF before.purges > 0 THEN
    SELECT array_agg(p.key) INTO barred FROM federation_purged_blobs(p_keys) AS p(key)
    JOIN unnest(p_keys, p_from) AS i(key, came) ON i.key = p.key WHERE p_sources[i.came] <> 0;
  END IF;
  IF EXISTS (SELECT FROM unnest(p_attempts) AS attempt WHERE attempt IS NOT NULL) THEN
   
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

CREATE FUNCTION federation_insert_new(
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
  SELECT * INTO before FROM site FOR UPDATE;
  IF federation_cost(before) + size + 256 * added > p_quota THEN
    RETURN;
  END IF;
  IF before.purges > 0 AND EXISTS (SELECT FROM federation_purged_blobs(p_keys)) THEN
    RETURN;
  END IF;
 
 
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

CREATE FUNCTION federation_set_aside(
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

CREATE FUNCTION federation_entries(
  p_kinds bigint[], p_instances bytea[], p_names bytea[], p_use int, p_granularity bigint
) RETURNS TABLE (
  at bigint, seq bigint, value bytea, label bytea, stored float8, expires float8, source smallint,
  origin text, ticks bigint, node text
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  now bigint;
BEGIN
  IF p_use = 2 THEN
    SELECT now_ms INTO now FROM clock;
    PERFORM FROM unnest(p_kinds, p_instances, p_names) AS k(kind, instance, name)
    JOIN entry e ON e.kind = k.kind AND e.instance = k.instance AND e.name = k.name
    WHERE e.accessed < now - p_granularity OR e.era < now / 3600000
    ORDER BY e.kind, e.instance, e.name FOR NO KEY UPDATE OF e;
    IF FOUND THEN
      PERFORM federation_unsynced();
      UPDATE entry e SET accessed = now, era = greatest(e.era, now / 3600000)
      FROM unnest(p_kinds, p_instances, p_names) AS k(kind, instance, name)
      WHERE e.kind = k.kind AND e.instance = k.instance AND e.name = k.name
        AND (e.accessed < now - p_granularity OR e.era < now / 3600000);
    END IF;
  END IF;
  RETURN QUERY
    SELECT k.at, e.seq, e.value, e.label, e.stored, e.expires, e.source, e.origin, e.ticks, e.node
    FROM unnest(p_kinds, p_instances, p_names) WITH ORDINALITY AS k(kind, instance, name, at)
    JOIN entry e ON e.kind = k.kind AND e.instance = k.instance AND e.name = k.name ORDER BY k.at;
END $$;

CREATE FUNCTION federation_put(
  p_kinds bigint[], p_instances bytea[], p_names bytea[], p_values bytea[], p_labels bytea[],
  p_expires float8[], p_seen bigint[], p_ways bigint[], p_ticks bigint[], p_nodes text[],
  p_source int, p_via text, p_origin text, p_unused bigint, p_met bigint, p_limit bigint,
  p_half bigint, p_wall float8, p_quota bigint,
  OUT is_done boolean, OUT newest bigint, OUT token uuid
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  now bigint;
  s site;
  held record;
  purged purge;
  number bigint;
  given bigint;
  giver text;
  growth bigint;
  room bigint;
BEGIN
  PERFORM federation_unsynced();
  SELECT now_ms INTO now FROM clock;
  PERFORM FROM unnest(p_kinds, p_instances, p_names) AS k(kind, instance, name)
  JOIN entry e ON e.kind = k.kind AND e.instance = k.instance AND e.name = k.name
  ORDER BY e.kind, e.instance, e.name FOR UPDATE OF e;
  SELECT * INTO s FROM site FOR UPDATE;
  SELECT coalesce(bool_and(coalesce(e.seq, 0) = k.seen), true) INTO is_done
  FROM unnest(p_kinds, p_instances, p_names, p_seen) AS k(kind, instance, name, seen)
  LEFT JOIN entry e ON e.kind = k.kind AND e.instance = k.instance AND e.name = k.name;
  IF NOT is_done THEN
    RETURN;
  END IF;
  room := coalesce(p_quota, 9e18::bigint) - federation_cost(s);
  s.ticks := greatest(s.ticks, p_met);
  FOR i IN 1 .. cardinality(p_names) LOOP
    SELECT e.seq, e.ticks, e.node, octet_length(e.value) + octet_length(e.label) AS size INTO held
    FROM entry e WHERE kind = p_kinds[i] AND instance = p_instances[i] AND name = p_names[i];
    IF s.purges > 0 THEN
      SELECT * INTO purged FROM purge p
      WHERE p.kind = p_kinds[i] AND p.instance = p_instances[i] AND p.name = p_names[i];
     
      IF purged.seq IS NOT NULL AND (p_source = 1 OR p_nodes[i] IS NOT NULL
        AND (p_ticks[i], p_nodes[i] COLLATE "C") <= (purged.ticks, purged.node COLLATE "C"))
      THEN
        UPDATE purge p SET used = now WHERE p.seq = purged.seq;
        CONTINUE;
      END IF;
    END IF;
    IF p_ways[i] = 3 THEN
      UPDATE entry e SET accessed = now, era = greatest(e.era, (now - p_unused) / 3600000)
      WHERE kind = p_kinds[i] AND instance = p_instances[i] AND name = p_names[i];
      CONTINUE;
    END IF;
    growth := octet_length(p_values[i]) + octet_length(p_labels[i]) - coalesce(held.size, 0);
    number := held.seq;
    given := held.ticks;
    giver := held.node;
    IF p_ways[i] = 1 THEN
      room := room - growth - CASE WHEN held.seq IS NULL THEN 240 ELSE 0 END;
      IF room < 0 AND growth > 0 THEN
        RAISE EXCEPTION 'the quota of the site is used up; nothing was stored'
          USING ERRCODE = 'FDF01';
      END IF;
      s.seq := s.seq + 1;
      number := s.seq;
      given := p_ticks[i];
      giver := coalesce(p_nodes[i], s.site_id);
      IF p_nodes[i] IS NULL THEN
        given := greatest(given, purged.ticks + 1,
          1 + CASE WHEN s.ticks > p_limit THEN p_half ELSE s.ticks END);
        s.ticks := greatest(s.ticks, given);
      END IF;
      s.logged := s.logged + octet_length(p_values[i]) + octet_length(p_labels[i]);
      INSERT INTO log VALUES (number, p_kinds[i], p_instances[i], p_names[i],
        octet_length(p_values[i]) + octet_length(p_labels[i]), p_wall, p_source, p_via, p_origin,
        s.logged);
    END IF;
    INSERT INTO entry VALUES (p_kinds[i], p_instances[i], p_names[i], p_values[i], p_labels[i],
      p_wall, p_expires[i], p_source, p_origin, now, (now - p_unused) / 3600000,
      number, given, giver)
    ON CONFLICT (kind, instance, name) DO UPDATE SET value = excluded.value, label = excluded.label,
      stored = excluded.stored, expires = excluded.expires, source = excluded.source,
      origin = excluded.origin, accessed = excluded.accessed,
      era = greatest(entry.era, excluded.era), seq = excluded.seq, ticks = excluded.ticks,
      node = excluded.node;
    s.bytes := s.bytes + growth;
    s.entries := s.entries + CASE WHEN held.seq IS NULL THEN 1 ELSE 0 END;
  END LOOP;
  UPDATE site SET seq = s.seq, logged = s.logged, bytes = s.bytes, entries = s.entries,
    ticks = s.ticks;
  newest := s.seq;
  token := federation_incarnation();
END $$;

CREATE FUNCTION federation_take_lead(p_role text, p_node text, p_seen bigint)
RETURNS bigint
LANGUAGE sql AS $$
  UPDATE lead SET node = p_node, term = term + 1, beat = 0 WHERE role = p_role AND term = p_seen
  RETURNING term
$$;

CREATE FUNCTION federation_beat(p_role text, p_term bigint, p_ms bigint) RETURNS void
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

CREATE FUNCTION federation_resign(p_role text, p_term bigint) RETURNS void
LANGUAGE sql AS $$
  UPDATE lead SET node = NULL WHERE role = p_role AND term = p_term
$$;

CREATE FUNCTION federation_clock_of_leases(p_age bigint) RETURNS clock
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

CREATE FUNCTION federation_evict(
  p_role text, p_term bigint, p_bytes bigint, p_rows int, p_age bigint, p_lease bigint,
  OUT blobs bigint, OUT entries bigint, OUT freed bigint, OUT is_paused boolean,
  OUT is_pinned boolean
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  c clock;
  pin bigint;
  pulled_pin bigint;
  oldest bigint;
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

CREATE FUNCTION federation_expire(
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

CREATE FUNCTION federation_gone_done(
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

CREATE FUNCTION federation_trim(
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

CREATE FUNCTION federation_begin_epoch(p_role text, p_term bigint, p_epoch text)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_check_lead(p_role, p_term);
  UPDATE site SET log_epoch = p_epoch;
  UPDATE peer SET state = 'needs-resync', reason = 'the change log was begun anew', position = '',
    marks = marks + 1, holds = false;
END $$;

CREATE FUNCTION federation_give_up_one(p_role text, p_term bigint, p_reason text)
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

CREATE FUNCTION federation_as_replicator(p_term bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true);
  PERFORM federation_check_lead('replication', p_term);
END $$;

CREATE FUNCTION federation_save_peers(p_term bigint, p_records jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_as_replicator(p_term);
  INSERT INTO peer AS p
  SELECT r.name, r.lane, r.cursor, r.state, r.reason, r.position, r.node_id, r.log_seen, 0,
    r.served, r.sent_objects, r.sent_bytes, r.last_success_s, r.last_error, r.last_error_s,
    r.pins_pulled, r.marks, r.holds, r.purges
  FROM jsonb_to_recordset(p_records) AS r(
    name text, lane text, cursor bigint, state text, reason text, position text, node_id text,
    log_seen text, served bigint, sent_objects bigint, sent_bytes bigint, last_success_s float8,
    last_error text, last_error_s float8, pins_pulled boolean, marks bigint, holds boolean,
    purges bigint
  ) ORDER BY r.name, r.lane
  ON CONFLICT (name, lane) DO UPDATE SET
    state = CASE WHEN p.marks > excluded.marks THEN p.state ELSE excluded.state END,
    reason = CASE WHEN p.marks > excluded.marks THEN p.reason ELSE excluded.reason END,
    position = CASE WHEN p.marks > excluded.marks THEN p.position ELSE excluded.position END,
    holds = CASE WHEN p.marks > excluded.marks THEN p.holds ELSE
      excluded.state = 'following' OR excluded.holds END,
    cursor = excluded.cursor, node_id = excluded.node_id, log_seen = excluded.log_seen,
    served = excluded.served, sent_objects = excluded.sent_objects,
    sent_bytes = excluded.sent_bytes, last_success = excluded.last_success,
    last_error = excluded.last_error, last_error_at = excluded.last_error_at,
    pins_pulled = excluded.pins_pulled, purges = excluded.purges;
END $$;

CREATE FUNCTION federation_park(
  p_term bigint, p_peers text[], p_kinds bigint[], p_instances bytea[], p_names bytea[],
  p_sizes bigint[], p_seqs bigint[], p_labels bytea[], p_reasons text[], p_parked float8[],
  p_tries bigint[], p_retries boolean[], p_kept bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  name_of_peer text;
  forgotten bigint := 0;
  more bigint;
BEGIN
  PERFORM federation_as_replicator(p_term);
  FOR i IN 1 .. cardinality(p_peers) LOOP
    INSERT INTO parked (peer, kind, instance, name, size, seq, label, reason, parked, tries, retry)
    VALUES (p_peers[i], p_kinds[i], p_instances[i], p_names[i], p_sizes[i], p_seqs[i], p_labels[i],
      p_reasons[i], p_parked[i], p_tries[i], p_retries[i])
    ON CONFLICT (peer, kind, instance, name) DO UPDATE SET size = excluded.size, seq = excluded.seq,
      label = excluded.label, reason = excluded.reason, parked = excluded.parked,
      tries = parked.tries + 1, retry = false;
  END LOOP;
  FOR name_of_peer IN SELECT DISTINCT unnest(p_peers) LOOP
    DELETE FROM parked p WHERE p.peer = name_of_peer AND p.id <= (
      SELECT q.id FROM parked q WHERE q.peer = name_of_peer
      ORDER BY q.id DESC LIMIT 1 OFFSET p_kept);
    GET DIAGNOSTICS more = ROW_COUNT;
    forgotten := forgotten + more;
  END LOOP;
  RETURN forgotten;
END $$;

CREATE FUNCTION federation_unpark(
  p_term bigint, p_peers text[], p_kinds bigint[], p_instances bytea[], p_names bytea[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_as_replicator(p_term);
  DELETE FROM parked p USING unnest(p_peers, p_kinds, p_instances, p_names)
    AS o(peer, kind, instance, name)
  WHERE p.peer = o.peer AND p.kind = o.kind AND p.instance = o.instance AND p.name = o.name;
END $$;

CREATE FUNCTION federation_drop_peer(p_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_as_replicator(NULL);
  DELETE FROM peer WHERE name = p_name;
  DELETE FROM parked WHERE peer = p_name;
  DELETE FROM acknowledged WHERE peer = p_name;
END $$;

CREATE FUNCTION federation_tell(p_peers text[], p_seqs bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_unsynced();
  INSERT INTO acknowledged SELECT * FROM unnest(p_peers, p_seqs) ORDER BY 1
  ON CONFLICT (peer) DO UPDATE SET seq = excluded.seq;
END $$;

CREATE FUNCTION federation_redate_entries(
  p_role text, p_term bigint, p_wall float8, p_drift float8,
  p_kind bigint, p_instance bytea, p_name bytea, p_rows int,
  OUT kind bigint, OUT instance bytea, OUT name bytea, OUT dated bigint, OUT newest bigint
) LANGUAGE plpgsql SET jit = off
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  latest bigint := floor((p_wall + p_drift) * 1000)::bigint * 65536;
  s site;
  e record;
  far bigint := 0;
BEGIN
  PERFORM federation_check_lead(p_role, p_term);
  PERFORM federation_unsynced();
  dated := 0;
  newest := 0;
  FOR e IN
    SELECT o.kind, o.instance, o.name, o.ticks FROM entry o
    WHERE (o.kind, o.instance, o.name) > (p_kind, p_instance, p_name)
    ORDER BY o.kind, o.instance, o.name LIMIT p_rows
  LOOP
    kind := e.kind;
    instance := e.instance;
    name := e.name;
    IF e.ticks > latest THEN
      far := far + 1;
    ELSE
      newest := greatest(newest, e.ticks);
    END IF;
  END LOOP;
  IF far = 0 THEN
    RETURN;
  END IF;
  PERFORM FROM entry o
  WHERE (o.kind, o.instance, o.name) > (p_kind, p_instance, p_name)
    AND (o.kind, o.instance, o.name) <= (federation_redate_entries.kind,
      federation_redate_entries.instance, federation_redate_entries.name)
    AND o.ticks > latest
  ORDER BY o.kind, o.instance, o.name FOR UPDATE;
  SELECT * INTO s FROM site FOR UPDATE;
  FOR e IN
    SELECT o.*, octet_length(o.value) + octet_length(o.label) AS size FROM entry o
    WHERE (o.kind, o.instance, o.name) > (p_kind, p_instance, p_name)
      AND (o.kind, o.instance, o.name) <= (federation_redate_entries.kind,
        federation_redate_entries.instance, federation_redate_entries.name)
      AND o.ticks > latest
    ORDER BY o.kind, o.instance, o.name
  LOOP
    s.seq := s.seq + 1;
    s.logged := s.logged + e.size;
    dated := dated + 1;
    UPDATE entry o SET ticks = federation_next_ticks(s.ticks, p_wall, p_drift), node = s.site_id,
      seq = s.seq
    WHERE o.kind = e.kind AND o.instance = e.instance AND o.name = e.name;
   
    INSERT INTO log VALUES (s.seq, e.kind, e.instance, e.name, e.size, p_wall, e.source, '',
      e.origin, s.logged);
  END LOOP;
  UPDATE site SET seq = s.seq, logged = s.logged;
END $$;

CREATE FUNCTION federation_redate_purges(
  p_role text, p_term bigint, p_wall float8, p_drift float8, p_rows int
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  s site;
  far purge;
  dated bigint := 0;
BEGIN
  PERFORM federation_check_lead(p_role, p_term);
  PERFORM federation_unsynced();
  SELECT * INTO s FROM site FOR UPDATE;
  FOR far IN
    SELECT * FROM purge WHERE ticks > floor((p_wall + p_drift) * 1000)::bigint * 65536 LIMIT p_rows
  LOOP
    far.ticks := federation_next_ticks(s.ticks, p_wall, p_drift);
    far.node := s.site_id;
    s := federation_record_purge(s, far, far.used, s.purges);
    dated := dated + 1;
  END LOOP;
  UPDATE site SET purge_seq = s.purge_seq;
  RETURN dated;
END $$;

CREATE FUNCTION federation_settle_ticks(
  p_role text, p_term bigint, p_wall float8, p_drift float8, p_newest bigint, p_first bigint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  s site;
  since bigint;
  purged bigint;
BEGIN
  PERFORM federation_check_lead(p_role, p_term);
  SELECT max(e.ticks) INTO since FROM log l
  JOIN entry e ON e.kind = l.kind AND e.instance = l.instance AND e.name = l.name
  WHERE l.seq > p_first;
  SELECT max(ticks) INTO purged FROM purge;
  SELECT * INTO s FROM site FOR UPDATE;
  UPDATE site SET ticks = least(s.ticks,
    greatest(p_newest, since, purged, federation_next_ticks(s.ticks, p_wall, p_drift)));
END $$;

CREATE FUNCTION federation_remove(
  p_keys bytea[], p_reason text, p_wall float8, p_lease bigint, p_kept bigint
) RETURNS bigint LANGUAGE sql AS $$
  SELECT federation_set_aside(array_agg(key), array_agg(seq), p_reason, p_wall, p_lease, p_kept)
  FROM blob WHERE key = ANY (p_keys)
$$;

INSERT INTO site (id, schema, site_id, log_epoch) VALUES (1, 3, 'site', 'epoch');
INSERT INTO clock VALUES (1, 1000000000000, 0, federation_incarnation());
