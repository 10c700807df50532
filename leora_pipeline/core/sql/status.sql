-- name: tenants
-- How each tenant's runs stand.
SELECT
  t.slug AS tenant_slug,
  f.finished_at AS last_full_success,
  COALESCE(f.finished_at, t."createdAt" AT TIME ZONE 'UTC')
    < clock_timestamp() - make_interval(hours => :stale_after) AS is_stale,
  l.status AS last_status,
  l.error AS last_error,
  COALESCE(
    l.status = 'running' AND l.started_at < clock_timestamp() - make_interval(hours => :stuck_after),
    false
  ) AS is_stuck
FROM "Tenant" AS t
LEFT JOIN LATERAL (
  SELECT max(finished_at) AS finished_at
  FROM leora_pipeline.tenant_run
  WHERE tenant_id = t.id AND mode = 'full' AND status = 'succeeded'
) AS f ON true
LEFT JOIN LATERAL (
  SELECT status, error, started_at FROM leora_pipeline.tenant_run
  WHERE tenant_id = t.id AND mode = 'full'
  ORDER BY started_at DESC
  LIMIT 1
) AS l ON true
ORDER BY t.slug

-- name: untold
-- Customers that the CRM still has to be told about; those of held tenants wait on purpose.
SELECT count(*)
FROM leora_pipeline.customer_state AS s
WHERE s.to_tell AND NOT EXISTS (
  SELECT FROM leora_pipeline.tenant_hold AS h
  WHERE h.tenant_id = s.tenant_id AND h.released_at IS NULL
)

-- name: oldest_transaction
-- The age of the oldest transaction but this one, in seconds.
SELECT max(extract(epoch FROM clock_timestamp() - xact_start))::double precision
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'

-- name: queue
-- The changes that no run has looked at yet, and the age of the oldest, in seconds.
SELECT
  count(*) AS pending,
  max(extract(epoch FROM clock_timestamp() - noted_at))::double precision AS oldest_seconds
FROM leora_pipeline.pending_customer

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
