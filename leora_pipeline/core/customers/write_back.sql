-- name: lock_customers
-- The next unsynced customers, locked with their states, in the order of ids, skipping those
-- that another session holds, and those in quarantine. NO KEY UPDATE, since FOR UPDATE would block new
-- orders of these customers through their foreign key.
SELECT s.customer_id
FROM leora_pipeline.customer_state AS s
JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
WHERE s.tenant_id = :tenant_id AND s.needs_sync
  AND (CAST(:after AS uuid) IS NULL OR s.customer_id > CAST(:after AS uuid))
  AND (CAST(:only AS uuid[]) IS NULL OR s.customer_id = ANY (CAST(:only AS uuid[])))
  AND (s.retry_at IS NULL OR s.retry_at <= clock_timestamp())
ORDER BY s.customer_id
LIMIT :batch
FOR NO KEY UPDATE OF c, s SKIP LOCKED

-- name: inspect
-- By which instant the locked customers are written, which of them would be demoted by order loss,
-- and whether a hold is in force.
SELECT
  v.as_of,
  leora_pipeline.order_loss_customers(:tenant_id, CAST(:customer_ids AS uuid[]), v.as_of)
    AS order_loss,
  EXISTS (
    SELECT FROM leora_pipeline.hold_in_force WHERE tenant_id = :tenant_id
  ) AS is_held
FROM (SELECT COALESCE(CAST(:as_of AS timestamptz), leora_pipeline.clock()) AS as_of OFFSET 0) AS v

-- name: write_customers
-- Writes the locked customers, and counts what became of them.
SELECT
  count(*) FILTER (WHERE is_written) AS written,
  count(*) FILTER (WHERE is_moved) AS moved,
  count(*) FILTER (WHERE is_withheld) AS withheld
FROM leora_pipeline.write_customers(
  :tenant_id, CAST(:customer_ids AS uuid[]), CAST(:as_of AS timestamptz),
  CAST(:write_dates AS boolean), CAST(:held AS boolean), :run_id, :fallback_cause
)
