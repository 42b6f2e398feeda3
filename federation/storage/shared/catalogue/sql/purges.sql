-- Purges: names that stay away until somebody pushes them again. The records are written under the
-- lock of the row site, so their numbers are in the order of commits, as those of the log.

-- The ticks of a stamp given now: next_ticks in hlc.py. p_wall, p_drift: seconds.
CREATE OR REPLACE FUNCTION federation_next_ticks(p_last bigint, p_wall float8, p_drift float8)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT greatest(
    1 + CASE WHEN p_last > floor((p_wall + p_drift) * 1000)::bigint * 65536
      THEN floor((p_wall + p_drift / 2) * 1000)::bigint * 65536 ELSE p_last END,
    floor(p_wall * 1000)::bigint * 65536)
$$;

-- Writes a record under the next number into a row site that the caller has locked and stores
-- afterwards. p_most: of records.
CREATE OR REPLACE FUNCTION federation_record_purge(
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

-- Removes a purged blob and every trace of a damaged one; its objects are deleted at once. Returns
-- its size, null if it is not held. s: as in federation_record_purge.
CREATE OR REPLACE FUNCTION federation_purge_blob(
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

-- Records purges, and removes what they are about. p_ticks, p_nodes: the stamp of a record of
-- another node, which is taken over if it is newer; null where the name is purged here and now.
-- taken, sizes (of what was removed), labels: for each.
CREATE OR REPLACE FUNCTION federation_purge(
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

-- Returns those of p_keys that are purged. A record is kept for some time after it was used: the
-- use is written once an hour.
CREATE OR REPLACE FUNCTION federation_purged_blobs(p_keys bytea[]) RETURNS SETOF bytea
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

-- Returns the places of those names whose record is newer than the entry that is held, if any. What
-- an upstream gave has no stamp, and is older than any record.
CREATE OR REPLACE FUNCTION federation_purged_entries(
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

-- Records which of p_keys are allowed again: those that are purged and yet held, since a client has
-- just pushed them. The caller has locked the row site. 300: hlc.DRIFT_S; the stamp depends on it
-- only while a clock is wrong.
CREATE OR REPLACE FUNCTION federation_allow_pushed(p_keys bytea[], p_wall float8) RETURNS void
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

-- Does what federation_find does for a peer that offers blobs: purged ones count as held, so that
-- it does not send them again and again.
CREATE OR REPLACE FUNCTION federation_find_offered(
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

-- Returns those beginnings of keys that a held or a purged blob has.
CREATE OR REPLACE FUNCTION federation_held_like(p_names bytea[], p_highest bytea)
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

-- Forgets up to p_rows records that were not used for p_keep ms and that every peer was told of.
-- Peers that are no nodes of this project are told nothing, and send nothing. Returns how many.
CREATE OR REPLACE FUNCTION federation_forget_purges(
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
