-- name: failing_now
-- The checks whose latest verdict on a tenant is a failure; looked up one by one, since the verdicts
-- of all times are many.
SELECT
  v.check_name, t.id AS tenant_id, t.slug AS tenant_slug, v.severity, v.status, v.message,
  v.checked_at
FROM "Tenant" AS t
CROSS JOIN unnest(CAST(:checks AS text[])) WITH ORDINALITY AS c (check_name, place)
CROSS JOIN LATERAL (
  SELECT * FROM leora_pipeline.health_verdict AS h
  WHERE h.tenant_id = t.id AND h.check_name = c.check_name
  ORDER BY h.checked_at DESC
  LIMIT 1
) AS v
WHERE v.status = 'failed'
ORDER BY t.slug, c.place

-- name: tenants
-- How each tenant's runs stand. Of its full runs the last that has ended, or should have, speaks; of
-- its incremental ones the last that has ended, unless a full run has healed it since.
SELECT
  t.id AS tenant_id,
  t.slug AS tenant_slug,
  f.finished_at AS last_full_success,
  l.status AS last_status,
  e.error AS last_error,
  i.error AS last_incremental_error,
  COALESCE(e.status = 'running', false) AS is_stuck
FROM "Tenant" AS t
LEFT JOIN LATERAL (
  SELECT max(finished_at) AS finished_at, max(started_at) AS started_at
  FROM leora_pipeline.tenant_run
  WHERE tenant_id = t.id AND mode = 'full' AND status = 'succeeded'
) AS f ON true
LEFT JOIN LATERAL (
  SELECT status FROM leora_pipeline.tenant_run
  WHERE tenant_id = t.id AND mode = 'full'
  ORDER BY started_at DESC
  LIMIT 1
) AS l ON true
LEFT JOIN LATERAL (
  SELECT status, error FROM leora_pipeline.tenant_run
  WHERE tenant_id = t.id AND mode = 'full' AND (
    status <> 'running' OR started_at < clock_timestamp() - make_interval(hours => :stuck_after)
  )
  ORDER BY started_at DESC
  LIMIT 1
) AS e ON true
LEFT JOIN LATERAL (
  SELECT error, started_at FROM leora_pipeline.tenant_run
  WHERE tenant_id = t.id AND mode = 'incremental' AND status <> 'running'
  ORDER BY started_at DESC
  LIMIT 1
) AS i ON i.started_at > COALESCE(f.started_at, '-infinity')
ORDER BY t.slug

-- name: unsynced
-- Customers that are unsynced; those of held tenants are so on purpose.
SELECT count(*) AS unsynced
FROM leora_pipeline.customer_state AS s
WHERE s.needs_sync AND NOT EXISTS (
  SELECT FROM leora_pipeline.hold_in_force AS h WHERE h.tenant_id = s.tenant_id
)

-- name: oldest_transaction
-- The age of the oldest transaction but this one, in seconds, and whether this role may see those of
-- others.
SELECT
  max(extract(epoch FROM clock_timestamp() - xact_start))::double precision
    AS oldest_transaction_seconds,
  pg_has_role('pg_read_all_stats', 'USAGE') AS sees_transactions
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'

-- name: queues
-- For each tenant that has any, the changes that no run has looked at yet, and the age of the
-- oldest, in seconds. A tenant that the CRM no longer has comes without a slug.
SELECT p.tenant_id, t.slug AS tenant_slug, p.pending, p.oldest_seconds
FROM (
  SELECT
    tenant_id,
    count(*) AS pending,
    max(extract(epoch FROM clock_timestamp() - captured_at))::double precision AS oldest_seconds
  FROM leora_pipeline.pending_customer
  GROUP BY tenant_id
) AS p
LEFT JOIN "Tenant" AS t ON t.id = p.tenant_id
ORDER BY t.slug

-- name: quarantined
-- For each tenant that has any, the quarantined customers, and the error of the last one tried.
SELECT DISTINCT ON (t.slug)
  a.tenant_id,
  t.slug AS tenant_slug,
  count(*) OVER of_tenant AS customers,
  min(a.quarantined_at) OVER of_tenant AS since,
  a.customer_id,
  a.error
FROM leora_pipeline.customer_state AS a
JOIN "Tenant" AS t ON t.id = a.tenant_id
WHERE a.retry_at IS NOT NULL
WINDOW of_tenant AS (PARTITION BY a.tenant_id)
ORDER BY t.slug, a.retry_at DESC, a.customer_id

-- name: listeners
-- The real-time workers that run.
SELECT listener_id, started_at, wants_notify
FROM leora_pipeline.listener
WHERE seen_at > clock_timestamp() - interval '30 seconds'
ORDER BY started_at

-- name: incidents
-- The incidents that are open, and those that were resolved within a day.
SELECT tenant_slug, kind, severity, message, opened_at, resolved_at
FROM leora_pipeline.incident
WHERE resolved_at IS NULL OR resolved_at > clock_timestamp() - interval '1 day'
ORDER BY tenant_slug, opened_at, kind

-- name: outbox
-- The messages that wait to be delivered, and why the latest that was tried could not be.
SELECT
  count(*) AS unsent_messages,
  (array_agg(last_error ORDER BY retry_at DESC) FILTER (WHERE last_error IS NOT NULL))[1]
    AS delivery_error
FROM leora_pipeline.alert_message
WHERE sent_at IS NULL AND expired_at IS NULL
