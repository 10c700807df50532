-- name: open_incidents
-- The incidents that are open, and whether a reminder is due: people have heard of it, but nothing
-- for a day, and no newer message is on its way to them.
SELECT
  i.tenant_id, i.incident_id, i.tenant_slug, i.kind, i.message, i.opened_at,
  COALESCE(
    GREATEST(m.created_at, m.delivered_at) < clock_timestamp() - make_interval(hours => :remind_after)
    AND m.delivered_at IS NOT NULL,
    false
  ) AS is_reminder_due
FROM leora_pipeline.incident AS i
CROSS JOIN LATERAL (
  SELECT max(a.created_at) AS created_at, max(a.delivered_at) AS delivered_at
  FROM leora_pipeline.alert_message AS a
  WHERE a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id
) AS m
WHERE i.resolved_at IS NULL

-- name: open_incident
-- Opens an incident.
INSERT INTO leora_pipeline.incident (tenant_id, tenant_slug, kind, severity, message, opened_at)
VALUES (:tenant_id, :tenant_slug, :kind, :severity, :message, :now)
RETURNING incident_id

-- name: update_incident
-- Notes how an incident stands at a reminder.
UPDATE leora_pipeline.incident
SET message = :message
WHERE tenant_id = :tenant_id AND incident_id = :incident_id

-- name: resolve_incident
-- Ends an incident.
UPDATE leora_pipeline.incident
SET resolved_at = :now
WHERE tenant_id = :tenant_id AND incident_id = :incident_id

-- name: drop_reminders
-- Gives up the reminders of an incident that have not reached all addresses: a newer message says more.
UPDATE leora_pipeline.alert_message
SET expired_at = clock_timestamp()
WHERE tenant_id = :tenant_id AND incident_id = :incident_id AND event = 'reminder'
  AND sent_at IS NULL AND expired_at IS NULL

-- name: last_release
-- Who ended the tenant's last hold.
SELECT released_by
FROM leora_pipeline.tenant_hold
WHERE tenant_id = :tenant_id AND released_at IS NOT NULL
ORDER BY released_at DESC
LIMIT 1
