-- name: crm_columns
-- The columns of the tables on the search path, whatever schema that is.
SELECT c.relname, a.attname
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)
  AND c.relname IN ('Tenant', 'Customer', 'Order')

-- name: search_path
-- Where this role looks for names, as it is set.
SHOW search_path

-- name: searched_schemas
-- The schemas in which this role finds what it names.
SELECT s::text FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) AS s

-- name: search_postgres_alone
-- So that nothing that somebody else made takes the place of what is PostgreSQL's.
SET LOCAL search_path = pg_catalog

-- name: strange_names
-- What lets somebody whom this role must not trust put something of his own where it finds its
-- operators and tables: the schema of the role's name, which comes first; for a superuser, any.
WITH me AS (
  SELECT r.oid, r.rolname, r.rolsuper, d.datdba
  FROM pg_roles AS r
  JOIN pg_database AS d ON d.datname = current_database()
  WHERE r.rolname = current_user
)
SELECT format('the schema %I belongs to role %I', n.nspname, r.rolname)
FROM me
JOIN pg_namespace AS n ON n.nspname = me.rolname
JOIN pg_roles AS r ON r.oid = n.nspowner
WHERE n.nspname = ANY (CAST(:schemas AS text[]))
  AND r.oid NOT IN (me.oid, me.datdba, 'pg_database_owner'::regrole) AND NOT r.rolsuper
UNION ALL
SELECT format(
  '%s may create in schema %I (REVOKE CREATE ON SCHEMA %I FROM %s)',
  COALESCE('role ' || r.rolname, 'everybody'), n.nspname, n.nspname,
  COALESCE(quote_ident(r.rolname), 'PUBLIC')
)
FROM me
JOIN pg_namespace AS n ON n.nspname = ANY (CAST(:schemas AS text[]))
CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
LEFT JOIN pg_roles AS r ON r.oid = a.grantee
WHERE me.rolsuper AND a.privilege_type = 'CREATE'
  AND a.grantee NOT IN (n.nspowner, me.datdba) AND r.rolsuper IS NOT TRUE
  AND NOT EXISTS (
    SELECT FROM pg_class AS c
    WHERE c.relnamespace = n.oid AND c.relname = 'Customer' AND c.relowner = a.grantee
  )

-- name: access
-- For each of the CRM's tables: whether row level security filters it for a role, and the privileges
-- that are missing. (What row_security_active() says of this role is asked of any.)
SELECT
  r.rolname AS role,
  c.relname AS table_name,
  c.relrowsecurity AND NOT r.rolsuper AND NOT r.rolbypassrls
    AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE')) AS is_filtered,
  concat_ws(' and ',
    CASE WHEN NOT bool_or(has_column_privilege(r.oid, c.oid, w.attname, 'SELECT')) THEN 'SELECT'
         ELSE 'SELECT (' || string_agg(quote_ident(w.attname), ', ' ORDER BY w.place)
           FILTER (WHERE NOT has_column_privilege(r.oid, c.oid, w.attname, 'SELECT')) || ')' END,
    CASE WHEN c.relname = 'Customer' THEN 'UPDATE (' || string_agg(quote_ident(w.attname), ', ' ORDER BY w.place)
      FILTER (
        WHERE w.attname = ANY (CAST(:written AS text[]))
          AND NOT has_column_privilege(r.oid, c.oid, w.attname, 'UPDATE')
      ) || ')' END
  ) AS denied
FROM unnest(CAST(:tables AS text[]), CAST(:columns AS text[])) WITH ORDINALITY
  AS w (table_name, attname, place)
JOIN pg_class AS c ON c.oid = to_regclass(quote_ident(w.table_name))
JOIN pg_roles AS r ON r.rolname = COALESCE(CAST(:role AS text), current_user)
GROUP BY r.oid, r.rolname, r.rolsuper, r.rolbypassrls, c.oid, c.relname, c.relrowsecurity,
  c.relforcerowsecurity, c.relowner
ORDER BY c.relname

-- name: readable_columns
-- Those of some columns of a table on the search path that are there, and that this role may read.
SELECT a.attname
FROM pg_attribute AS a
WHERE a.attrelid = to_regclass(quote_ident(:table)) AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attname = ANY (CAST(:columns AS text[]))
  AND has_column_privilege(a.attrelid, a.attnum, 'SELECT')

-- name: strange_owners
-- What makes the schema one that this role must not trust: its owner, or that of an object in it, or
-- of what a trigger on its tables calls, which outlives the privilege to set it. (A superuser counts as
-- a member of every role, a stranger's too.)
WITH schema AS (
  SELECT oid, nspowner FROM pg_namespace WHERE nspname = 'leora_pipeline'
),
objects AS (
  SELECT 'pg_class'::regclass AS classid, c.oid AS objid, c.relowner AS owner
  FROM pg_class AS c JOIN schema AS n ON c.relnamespace = n.oid
  UNION ALL
  SELECT 'pg_proc'::regclass, p.oid, p.proowner
  FROM pg_proc AS p JOIN schema AS n ON p.pronamespace = n.oid
  UNION ALL
  SELECT 'pg_type'::regclass, t.oid, t.typowner
  FROM pg_type AS t JOIN schema AS n ON t.typnamespace = n.oid
  UNION ALL
  SELECT 'pg_operator'::regclass, t.oid, t.oprowner
  FROM pg_operator AS t JOIN schema AS n ON t.oprnamespace = n.oid
)
SELECT 'it belongs to role ' || r.rolname AS stranger
FROM schema AS n
JOIN pg_roles AS r ON r.oid = n.nspowner
JOIN pg_roles AS me ON me.rolname = current_user
WHERE (me.rolsuper OR NOT pg_has_role(r.oid, 'USAGE'))
  AND r.rolname <> 'leora_owner' AND NOT r.rolsuper
  AND r.oid <> (SELECT datdba FROM pg_database WHERE datname = current_database())
  AND r.oid IS DISTINCT FROM (SELECT relowner FROM pg_class WHERE oid = to_regclass('"Customer"'))
UNION ALL
SELECT * FROM (
  SELECT
    pg_describe_object(o.classid, o.objid, 0) || ' belongs to role ' || pg_get_userbyid(o.owner)
  FROM objects AS o
  JOIN schema AS n ON n.nspowner <> o.owner
  ORDER BY 1
) AS o
UNION ALL
SELECT pg_describe_object('pg_trigger'::regclass, t.oid, 0) || ' belongs to role ' || r.rolname
FROM schema AS n
JOIN pg_class AS c ON c.relnamespace = n.oid
JOIN pg_trigger AS t ON t.tgrelid = c.oid
JOIN pg_proc AS p ON p.oid = t.tgfoid
JOIN pg_roles AS r ON r.oid = p.proowner
WHERE r.oid <> n.nspowner AND NOT r.rolsuper

-- name: open_doors
-- Privileges that are granted and not needed, each as a line with the statement that revokes it.
WITH schema AS (
  SELECT oid, nspowner, nspacl FROM pg_namespace WHERE nspname = 'leora_pipeline'
),
granted AS (
  -- On the CRM's tables, by name: what owning the table gives cannot be revoked. Triggers of the one
  -- that the pipeline writes run as the pipeline, whoever made them.
  SELECT
    1 AS place,
    'TRIGGER' AS privilege,
    c.oid::regclass::text AS object,
    CASE WHEN a.grantee IN ((SELECT nspowner FROM schema), COALESCE(to_regrole('leora_owner'), 0))
         THEN 'which `leora migrate` alone needs'
         ELSE 'whose triggers run as whoever writes to it' END AS why,
    a.grantee,
    a.is_grantable
  FROM pg_class AS c
  CROSS JOIN LATERAL aclexplode(c.relacl) AS a
  WHERE c.oid IN (to_regclass('"Customer"'), to_regclass('"Order"'))
    AND a.privilege_type = 'TRIGGER' AND a.grantee <> c.relowner
    AND (c.oid = to_regclass('"Customer"') OR a.grantee IN (
      0, (SELECT nspowner FROM schema), to_regrole('leora_owner'), to_regrole('leora_runtime'),
      to_regrole(quote_ident(current_user))
    ))
  UNION ALL
  SELECT 2, 'CREATE', 'DATABASE ' || quote_ident(d.datname), 'which `leora migrate` alone needs', a.grantee,
    a.is_grantable
  FROM pg_database AS d
  CROSS JOIN LATERAL aclexplode(d.datacl) AS a
  WHERE d.datname = current_database() AND a.privilege_type = 'CREATE' AND a.grantee <> d.datdba
    AND a.grantee IN (
      (SELECT nspowner FROM schema), to_regrole('leora_owner'), to_regrole('leora_runtime')
    )
  UNION ALL
  -- To attach a trigger function takes the privilege; what is attached runs without it.
  SELECT 3, 'EXECUTE', 'FUNCTION ' || p.oid::regprocedure, 'which runs as ' || pg_get_userbyid(p.proowner),
    a.grantee, a.is_grantable
  FROM pg_proc AS p
  JOIN schema AS n ON p.pronamespace = n.oid
  CROSS JOIN LATERAL aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) AS a
  WHERE a.grantee = 0 OR p.prorettype = 'trigger'::regtype AND a.grantee <> p.proowner
  UNION ALL
  SELECT 4, 'CREATE', 'SCHEMA leora_pipeline', 'which is the owner''s alone', a.grantee, a.is_grantable
  FROM schema AS n
  CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
  WHERE a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner
  UNION ALL
  SELECT 5, 'CREATE', 'SCHEMA ' || quote_ident(n.nspname), 'where everybody finds what it makes', a.grantee,
    a.is_grantable
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
  LEFT JOIN pg_roles AS r ON r.oid = a.grantee
  WHERE c.oid = to_regclass('"Customer"') AND a.privilege_type = 'CREATE'
    AND a.grantee NOT IN (n.nspowner, c.relowner) AND r.rolsuper IS NOT TRUE
    AND a.grantee <> (SELECT datdba FROM pg_database WHERE datname = current_database())
  UNION ALL
  SELECT DISTINCT 6, 'ALL', c.oid::regclass::text,
    CASE c.relname WHEN 'own_write' THEN 'which hides changes from capture' ELSE 'which holds secrets' END,
    a.grantee, false
  FROM pg_class AS c
  JOIN schema AS n ON c.relnamespace = n.oid
  CROSS JOIN LATERAL (
    SELECT grantee FROM aclexplode(c.relacl)
    UNION ALL
    SELECT x.grantee FROM pg_attribute AS t CROSS JOIN LATERAL aclexplode(t.attacl) AS x
    WHERE t.attrelid = c.oid
  ) AS a
  WHERE c.relname IN ('tenant_alert_url', 'own_write')
    AND a.grantee NOT IN (c.relowner, COALESCE(to_regrole('leora_runtime'), 0))
  UNION ALL
  SELECT 7, a.privilege_type, c.oid::regclass::text,
    CASE a.privilege_type WHEN 'TRIGGER' THEN 'whose triggers run as whoever writes to it'
         ELSE 'which is about all tenants' END,
    a.grantee, a.is_grantable
  FROM pg_class AS c
  JOIN schema AS n ON c.relnamespace = n.oid
  CROSS JOIN LATERAL aclexplode(c.relacl) AS a
  WHERE c.relname NOT IN ('tenant_alert_url', 'own_write')
    AND (a.privilege_type = 'TRIGGER' AND a.grantee <> c.relowner OR a.grantee = 0)
)
SELECT format(
  '%s has %s on %s, %s (REVOKE %s ON %s FROM %s%s)',
  CASE g.grantee WHEN 0 THEN 'everybody' ELSE 'role ' || pg_get_userbyid(g.grantee) END,
  g.privilege, g.object, g.why, g.privilege, g.object,
  CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
  CASE WHEN g.is_grantable THEN ' CASCADE' ELSE '' END
) AS door
FROM granted AS g
UNION ALL
SELECT format(
  'the schema leora_pipeline belongs to superuser %s, as which its functions run '
  '(`leora migrate --owner leora_owner`, as a superuser)',
  r.rolname
)
FROM schema AS n
JOIN pg_roles AS r ON r.oid = n.nspowner
WHERE r.rolsuper AND r.rolname <> current_user

-- name: shut_out
-- The role, where the pipeline's schema is there but not for it; no row otherwise.
SELECT current_user::text
FROM pg_namespace AS n
WHERE n.nspname = 'leora_pipeline' AND (
  NOT has_schema_privilege(n.oid, 'USAGE') OR EXISTS (
    SELECT FROM pg_proc AS p
    WHERE p.pronamespace = n.oid AND p.proname = 'functions_fingerprint'
      AND NOT has_function_privilege(p.oid, 'EXECUTE')
  )
)

-- name: installed_parts
-- Which of the marks of an installed schema are there. Read off the catalog's tables: what a session
-- has cached of names may be older than a lock that it has just been given.
SELECT
  EXISTS (
    SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'leora_pipeline' AND c.relname = 'alembic_version'
  ) AS revision,
  EXISTS (
    SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = 'leora_pipeline' AND p.proname = 'functions_fingerprint'
  ) AS functions_fingerprint

-- name: revision
-- The installed revision of the tables; at most one row.
SELECT version_num FROM leora_pipeline.alembic_version

-- name: functions_fingerprint
-- The digest of the installed functions.
SELECT leora_pipeline.functions_fingerprint()

-- name: missing_triggers
-- The triggers on the CRM's tables that are not there, or switched off.
SELECT w.table_name || '.' || w.trigger_name
FROM (VALUES
  ('Order', 'leora_pipeline_insert'),
  ('Order', 'leora_pipeline_update'),
  ('Order', 'leora_pipeline_delete'),
  ('Customer', 'leora_pipeline_insert'),
  ('Customer', 'leora_pipeline_update')
) AS w (table_name, trigger_name)
WHERE NOT EXISTS (
  SELECT FROM pg_trigger AS t
  JOIN pg_class AS c ON c.oid = t.tgrelid
  WHERE c.relname = w.table_name AND pg_table_is_visible(c.oid)
    AND t.tgname = w.trigger_name AND t.tgenabled <> 'D'
)
ORDER BY 1
