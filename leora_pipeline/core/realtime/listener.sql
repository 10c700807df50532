-- name: next_tenant
-- The next tenant, after another, that has pending customers. The listener's own connection runs it,
-- in one round trip.
SELECT tenant_id
FROM leora_pipeline.pending_customer
WHERE tenant_id > CAST(:after AS uuid)
ORDER BY tenant_id
LIMIT 1

-- name: report
-- Records that a listener runs, and whether it asks to be notified.
INSERT INTO leora_pipeline.listener (listener_id, started_at, seen_at, wants_notify)
VALUES (:listener_id, clock_timestamp(), clock_timestamp(), :wants_notify)
ON CONFLICT (listener_id) DO UPDATE SET seen_at = EXCLUDED.seen_at

-- name: delete_dead_listeners
-- Deletes the records of listeners that were killed.
DELETE FROM leora_pipeline.listener WHERE seen_at < clock_timestamp() - interval '1 hour'

-- name: leave
-- Deletes the record of a listener that has ended.
DELETE FROM leora_pipeline.listener WHERE listener_id = :listener_id
