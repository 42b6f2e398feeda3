-- The records of pins: see federation/core/pins.py. Their numbers are in the order of commits, as
-- whoever writes one locks the row pinned, after the row site, whose clock of stamps it needs.

-- Fails if the database has crashed since p_life: what was kept before may be lost then. p_while:
-- what was going on.
CREATE OR REPLACE FUNCTION federation_check_life(p_life uuid, p_while text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  IF federation_incarnation() <> p_life THEN
    RAISE EXCEPTION 'the database was restarted while %', p_while USING ERRCODE = 'FDL01';
  END IF;
END $$;

-- Fails unless this term still leads and the database has not crashed since p_life.
CREATE OR REPLACE FUNCTION federation_as_keeper(p_term bigint, p_life uuid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_unsynced();
  PERFORM federation_check_lead('upkeep', p_term);
  PERFORM federation_check_life(p_life, 'pins were looked at');
END $$;

-- Fails beyond p_most pins beside that of a target.
CREATE OR REPLACE FUNCTION federation_check_pins(p_target bytea, p_most bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  others bigint;
BEGIN
  SELECT count(*) INTO others FROM pin WHERE NOT removed AND target <> p_target;
  IF others >= p_most THEN
    RAISE EXCEPTION 'there are % pins already; no more are possible', others
      USING ERRCODE = 'FDR01';
  END IF;
  IF NOT EXISTS (SELECT FROM pin WHERE NOT removed) THEN -- older rows of the log concern none
    UPDATE pinned SET followed = (SELECT seq FROM site);
  END IF;
END $$;

-- Writes a record under the next number. Row site is locked. p_keep (s), p_kept: for how long, and
-- how many, records of removed pins stay.
CREATE OR REPLACE FUNCTION federation_write_pin(
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

-- Stores records, and returns for each whether it was taken. p_nodes: null for records of this site,
-- which get a stamp of now, and are taken unless they remove what is not pinned; a record of a peer
-- is taken if its stamp is newer. p_trial: of a trial whose record, the only one, goes in force if
-- the database has not crashed since p_life.
CREATE OR REPLACE FUNCTION federation_store_pins(
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

-- Stores a record that is not in force yet under p_target, which is that of no other pin.
CREATE OR REPLACE FUNCTION federation_try_pin(
  p_target bytea, p_of bytea, p_label bytea, p_until float8, p_note bytea, p_who bytea,
  p_at float8, p_most bigint, OUT trial bigint, OUT token uuid
) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_unsynced();
  PERFORM FROM site FOR UPDATE; -- as federation_check_pins reads the end of the log
  PERFORM FROM pinned FOR UPDATE;
  PERFORM federation_check_pins(p_of, p_most);
  IF EXISTS (SELECT FROM pin WHERE sha256(target) = sha256(p_target)) THEN
    RAISE EXCEPTION 'another command is pinning the same just now' USING ERRCODE = 'FDR01';
  END IF;
  INSERT INTO pin (target, label, until, note, who, at, ticks, node, scanned, tried)
  VALUES (p_target, p_label, p_until, p_note, p_who, p_at, 0, '', true, -- the command looks itself
    (SELECT now_ms FROM clock)) RETURNING id INTO trial;
  token := federation_incarnation();
END $$;

-- Ends pins whose date has passed, and returns them; and trials that gave no sign for p_tried ms.
-- Durable before anybody sees it, as peers are told up to a number.
CREATE OR REPLACE FUNCTION federation_end_pins(
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

-- Notes how far the log was looked at.
CREATE OR REPLACE FUNCTION federation_set_followed(p_term bigint, p_life uuid, p_upto bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_as_keeper(p_term, p_life);
  UPDATE pinned SET followed = p_upto;
END $$;

-- Notes that all entries were looked at for pins, or have to be. p_seqs: a record that has changed
-- since has another number, and nothing is noted of it.
CREATE OR REPLACE FUNCTION federation_set_scanned(
  p_term bigint, p_life uuid, p_ids bigint[], p_seqs bigint[], p_scanned boolean
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_as_keeper(p_term, p_life);
  PERFORM FROM pinned FOR UPDATE;
  UPDATE pin p SET scanned = p_scanned FROM unnest(p_ids, p_seqs) AS r(id, seq)
  WHERE p.id = r.id AND p.seq IS NOT DISTINCT FROM r.seq;
END $$;
