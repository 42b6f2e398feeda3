-- Blobs that were found damaged: what other servers are asked for, and what came back.

-- Records that blobs are lost, and due at once. p_kept rows stay: those that are back go first.
CREATE OR REPLACE FUNCTION federation_add_lost(
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

-- Records failed attempts. p_dues: when to try again; null: never, and the blob is forgotten.
CREATE OR REPLACE FUNCTION federation_put_off(
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

-- Records which of p_keys are held again, and returns these with where they came from. One whose
-- damaged copy did not come from an upstream counts as received again.
CREATE OR REPLACE FUNCTION federation_note_back(p_term bigint, p_keys bytea[], p_wall float8)
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
