-- name: transitions
-- Deletes transitions that are too old.
DELETE FROM leora_pipeline.account_type_transition
WHERE recorded_at < clock_timestamp() - make_interval(days => :days)

-- name: distributions
-- Deletes distributions that are too old, but for a tenant's latest.
DELETE FROM leora_pipeline.account_type_distribution AS d
WHERE d.as_of < clock_timestamp() - make_interval(days => :days) AND EXISTS (
  SELECT FROM leora_pipeline.account_type_distribution AS n
  WHERE n.tenant_id = d.tenant_id AND n.day > d.day
)

-- name: holds
-- Deletes holds that were over too long ago.
DELETE FROM leora_pipeline.tenant_hold
WHERE released_at < clock_timestamp() - make_interval(days => :days)

-- name: policy_changes
-- Deletes changes of policies that are too old.
DELETE FROM leora_pipeline.policy_change
WHERE changed_at < clock_timestamp() - make_interval(days => :days)

-- name: tickets
-- Deletes tickets that no transaction can use any more: what was inserted without calling the hook.
DELETE FROM leora_pipeline.hook_ticket
WHERE transaction_id < pg_snapshot_xmin(pg_current_snapshot())

-- name: tenant_runs
-- Deletes runs that are too old, but for a tenant's last of each mode, and its last success of it.
DELETE FROM leora_pipeline.tenant_run AS r
WHERE r.started_at < clock_timestamp() - make_interval(days => :days)
  AND EXISTS (
    SELECT FROM leora_pipeline.tenant_run AS n
    WHERE n.tenant_id = r.tenant_id AND n.mode = r.mode AND n.started_at > r.started_at
  )
  AND (r.status <> 'succeeded' OR EXISTS (
    SELECT FROM leora_pipeline.tenant_run AS n
    WHERE n.tenant_id = r.tenant_id AND n.mode = r.mode AND n.started_at > r.started_at
      AND n.status = 'succeeded'
  ))

-- name: verdicts
-- Deletes verdicts that are too old, but for a tenant's latest of each check.
DELETE FROM leora_pipeline.health_verdict AS v
WHERE v.checked_at < clock_timestamp() - make_interval(days => :days) AND EXISTS (
  SELECT FROM leora_pipeline.health_verdict AS n
  WHERE n.tenant_id = v.tenant_id AND n.check_name = v.check_name AND n.checked_at > v.checked_at
)

-- name: incidents
-- Deletes incidents that were over too long ago, of which no message remains to be delivered.
DELETE FROM leora_pipeline.incident AS i
WHERE i.resolved_at < clock_timestamp() - make_interval(days => :days) AND NOT EXISTS (
  SELECT FROM leora_pipeline.alert_message AS m
  WHERE m.tenant_id = i.tenant_id AND m.incident_id = i.incident_id
    AND m.sent_at IS NULL AND m.expired_at IS NULL
)

-- name: messages
-- Deletes messages that were sent, or given up, too long ago; those of an open incident show when
-- people were last notified.
DELETE FROM leora_pipeline.alert_message AS m
WHERE COALESCE(m.sent_at, m.expired_at) < clock_timestamp() - make_interval(days => :days)
  AND NOT EXISTS (
    SELECT FROM leora_pipeline.incident AS i
    WHERE i.tenant_id = m.tenant_id AND i.incident_id = m.incident_id AND i.resolved_at IS NULL
  )
