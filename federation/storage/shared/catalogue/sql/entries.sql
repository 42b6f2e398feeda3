-- Index entries. federation/storage/catalogue/hlc.py decides which value wins, from a row that
-- was read before; federation_put stores it if that row is still the same, and dates it.

-- Returns the entries of these keys, each with its place in the order asked for.
CREATE OR REPLACE FUNCTION federation_entries(
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

-- Stores entries, each key once, in the order of keys. p_seen: numbers of the rows that were
-- read, 0 for none. p_ways: 1 a new value, 2 the same one sent again, 3 only its use. p_ticks:
-- of the stamp that an entry brings; where p_nodes is null, the least that a stamp given here
-- may have. p_met: the greatest stamp received. p_limit, p_half: next_ticks in hlc.py. is_done:
-- false if one of the rows has changed.
CREATE OR REPLACE FUNCTION federation_put(
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
  SELECT * INTO s FROM site FOR UPDATE; -- from here on nobody else inserts
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
      -- The rule of date() in hlc.py, checked here because only the lock makes it certain.
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
