-- New stamps for what a wrong clock has dated more than p_drift s ahead of p_wall: see
-- federation/storage/upkeep/redating.py. A stamp given here is that of a push made now.

-- Looks at p_rows entries after a name, in the order of names. Returns the last one, null if there
-- are no more; how many were dated anew; and the greatest ticks of the others.
CREATE OR REPLACE FUNCTION federation_redate_entries(
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
    -- Without via: the node that sent it here may not have been able to send it elsewhere.
    INSERT INTO log VALUES (s.seq, e.kind, e.instance, e.name, e.size, p_wall, e.source, '',
      e.origin, s.logged);
  END LOOP;
  UPDATE site SET seq = s.seq, logged = s.logged;
END $$;

-- Dates up to p_rows records of purges anew, and returns how many.
CREATE OR REPLACE FUNCTION federation_redate_purges(
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

-- Sets the site's clock of stamps back to the greatest one in use. p_newest: of the entries that
-- were not dated anew; p_first: the end of the log before that began, since then entries came.
CREATE OR REPLACE FUNCTION federation_settle_ticks(
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
