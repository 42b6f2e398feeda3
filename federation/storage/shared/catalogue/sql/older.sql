-- What only programs of schema 1 call, while the nodes of a site are upgraded.

-- Takes damaged blobs out of sight, whichever rows they have by now.
CREATE OR REPLACE FUNCTION federation_remove(
  p_keys bytea[], p_reason text, p_wall float8, p_lease bigint, p_kept bigint
) RETURNS bigint LANGUAGE sql AS $$
  SELECT federation_set_aside(array_agg(key), array_agg(seq), p_reason, p_wall, p_lease, p_kept)
  FROM blob WHERE key = ANY (p_keys)
$$;
