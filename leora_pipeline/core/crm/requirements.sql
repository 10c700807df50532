-- name: crm_columns
-- The columns of the tables on the search path, whatever schema that is.
SELECT c.relname, a.attname
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)
  AND c.relname IN ('Tenant', 'Customer', 'Order')

-- name: access
-- For each of the CRM's tables: whether row level security filters it for this role, and the
-- privileges that are missing.
SELECT
  current_user::text AS role,
  c.relname AS table_name,
  row_security_active(c.oid) AS is_filtered,
  concat_ws(' and ',
    CASE WHEN NOT has_table_privilege(c.oid, 'SELECT') THEN 'SELECT' END,
    CASE WHEN c.relname = 'Customer' AND EXISTS (
      SELECT FROM unnest(CAST(:written AS text[])) AS w (attname)
      WHERE NOT has_column_privilege(c.oid, w.attname, 'UPDATE')
    ) THEN 'UPDATE' END
  ) AS denied
FROM pg_class c
WHERE c.relname = ANY (CAST(:tables AS text[])) AND c.relkind IN ('r', 'p')
  AND pg_table_is_visible(c.oid)
ORDER BY c.relname

-- name: shut_out
-- The role, where the pipeline's schema is there but not for it; no row otherwise.
SELECT current_user::text
FROM pg_namespace
WHERE nspname = 'leora_pipeline' AND NOT has_schema_privilege(oid, 'USAGE')

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
