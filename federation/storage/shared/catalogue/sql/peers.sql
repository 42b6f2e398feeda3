-- Peer records and parked objects. p_term is null for those who never led: commands.

CREATE OR REPLACE FUNCTION federation_as_replicator(p_term bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true);
  PERFORM federation_check_lead('replication', p_term);
END $$;

-- Saves records as federation.core.replication_log.ReplicationLog.save describes it.
CREATE OR REPLACE FUNCTION federation_save_peers(p_term bigint, p_records jsonb) RETURNS void
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

-- Parks objects, and returns how many older ones were forgotten: p_kept of each peer stay.
CREATE OR REPLACE FUNCTION federation_park(
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

CREATE OR REPLACE FUNCTION federation_unpark(
  p_term bigint, p_peers text[], p_kinds bigint[], p_instances bytea[], p_names bytea[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_as_replicator(p_term);
  DELETE FROM parked p USING unnest(p_peers, p_kinds, p_instances, p_names)
    AS o(peer, kind, instance, name)
  WHERE p.peer = o.peer AND p.kind = o.kind AND p.instance = o.instance AND p.name = o.name;
END $$;

CREATE OR REPLACE FUNCTION federation_drop_peer(p_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_as_replicator(NULL);
  DELETE FROM peer WHERE name = p_name;
  DELETE FROM parked WHERE peer = p_name;
  DELETE FROM acknowledged WHERE peer = p_name;
END $$;

-- Says what peers have, before their records are saved.
CREATE OR REPLACE FUNCTION federation_tell(p_peers text[], p_seqs bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM federation_unsynced();
  INSERT INTO acknowledged SELECT * FROM unnest(p_peers, p_seqs) ORDER BY 1
  ON CONFLICT (peer) DO UPDATE SET seq = excluded.seq;
END $$;
