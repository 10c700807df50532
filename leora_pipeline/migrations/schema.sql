-- name: lock_migration
-- Lets one migration at a time run; a transaction's lock, so that a pooler may stand in between.
SELECT pg_advisory_xact_lock(hashtext('leora_pipeline.migrate'))

-- name: require_own_names
-- What `require_own_names` does before `leora migrate` runs anything, for who runs printed SQL.
DO $$
DECLARE
  v_search_path text := pg_catalog.current_setting('search_path');
  v_schemas text[] := pg_catalog.current_schemas(false);
  v_strangers text;
BEGIN
  SET LOCAL search_path = pg_catalog;
  SELECT string_agg(s.stranger, '; ') INTO v_strangers FROM ({strange_names}) AS s (stranger);
  IF v_strangers IS NOT NULL THEN
    RAISE EXCEPTION 'what this role runs could be replaced by another role''s: %', v_strangers;
  END IF;
  PERFORM set_config('search_path', v_search_path, true);
END
$$

-- name: become_owner
-- The schema's owner, whether this role belongs to it, and what makes it the role of the transaction.
SELECT
  pg_get_userbyid(nspowner) AS role,
  pg_has_role(nspowner, 'MEMBER') AS is_member,
  format('SET LOCAL ROLE %I', pg_get_userbyid(nspowner)) AS set_role
FROM pg_namespace
WHERE nspname = 'leora_pipeline'

-- name: internal_functions
-- The functions of the schema that no trigger uses, and that nobody was granted by name but the role
-- that runs the pipeline: no session of the CRM is about to call them.
SELECT p.oid::regprocedure::text
FROM pg_proc AS p
WHERE p.pronamespace = to_regnamespace('leora_pipeline')
  AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = p.oid)
  AND NOT EXISTS (
    SELECT FROM aclexplode(p.proacl) AS a
    WHERE a.grantee NOT IN (0, p.proowner, COALESCE(to_regrole('leora_runtime'), 0))
  )

-- name: points_elsewhere
-- Whether the functions that the CRM's sessions run look for its tables in another schema than the one
-- that they are in now.
SELECT EXISTS (
  SELECT FROM pg_proc AS p
  JOIN pg_class AS c ON c.oid = to_regclass('"Customer"')
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE p.pronamespace = to_regnamespace('leora_pipeline') AND p.proname = 'capture_orders'
    AND NOT 'search_path=pg_catalog, ' || quote_ident(n.nspname) || ', pg_temp' = ANY (p.proconfig)
)

-- name: obstacles
-- What stands in the way of dropping the schema whole: what is not the pipeline's or not this role's,
-- and what would be dropped with it outside, other than the pipeline's own triggers.
WITH schema AS (
  SELECT oid, nspowner FROM pg_namespace WHERE nspname = 'leora_pipeline'
),
objects AS (
  SELECT 'pg_class'::regclass AS classid, c.oid AS objid, c.relowner AS owner, c.relname AS name,
    c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AS is_relation
  FROM pg_class AS c JOIN schema AS n ON c.relnamespace = n.oid
  UNION ALL
  SELECT 'pg_proc'::regclass, p.oid, p.proowner, p.proname, false
  FROM pg_proc AS p JOIN schema AS n ON p.pronamespace = n.oid
  UNION ALL
  SELECT 'pg_type'::regclass, t.oid, t.typowner, t.typname, false
  FROM pg_type AS t JOIN schema AS n ON t.typnamespace = n.oid
),
dependents AS (
  -- A view depends by its rule, a column by its default: what is meant is the relation.
  SELECT
    CASE WHEN r.oid IS NULL AND a.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END AS classid,
    COALESCE(r.ev_class, a.adrelid, d.objid) AS objid
  FROM objects AS o
  JOIN pg_depend AS d ON d.refclassid = o.classid AND d.refobjid = o.objid
  LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
  LEFT JOIN pg_attrdef AS a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
  LEFT JOIN pg_constraint AS k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
  LEFT JOIN pg_trigger AS t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
  WHERE d.deptype = 'n'
    AND COALESCE(t.tgname NOT LIKE 'leora\_pipeline\_%', true)
    AND COALESCE(k.connamespace <> (SELECT oid FROM schema), true)
)
SELECT 'it belongs to role ' || pg_get_userbyid(n.nspowner) AS obstacle
FROM schema AS n
WHERE NOT pg_has_role(n.nspowner, 'USAGE')
UNION
SELECT pg_describe_object(o.classid, o.objid, 0) || ' belongs to role ' || pg_get_userbyid(o.owner)
FROM objects AS o
WHERE NOT pg_has_role(o.owner, 'USAGE')
UNION
SELECT pg_describe_object(o.classid, o.objid, 0) || ' is not the pipeline''s'
FROM objects AS o
WHERE o.is_relation AND o.name <> ALL (CAST(:relations AS text[]))
  AND NOT EXISTS (  -- A sequence of a column goes with its table.
    SELECT FROM pg_depend AS d
    WHERE d.classid = o.classid AND d.objid = o.objid AND d.deptype IN ('a', 'i')
      AND d.refclassid = 'pg_class'::regclass
  )
UNION
SELECT pg_describe_object(d.classid, d.objid, 0) || ' depends on it'
FROM dependents AS d
WHERE NOT EXISTS (
  SELECT FROM objects AS o WHERE o.classid = d.classid AND o.objid = d.objid
)
ORDER BY 1
