-- name: lock_customers
-- The next customers to be told, locked with their states, in the order of ids, passing over those
-- that somebody holds, and those who are set aside. NO KEY UPDATE, since FOR UPDATE would block new
-- orders of these customers through their foreign key.
SELECT s.customer_id
FROM leora_pipeline.customer_state AS s
JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
WHERE s.tenant_id = :tenant_id AND s.to_tell
  AND (CAST(:after AS uuid) IS NULL OR s.customer_id > CAST(:after AS uuid))
  AND (CAST(:only AS uuid[]) IS NULL OR s.customer_id = ANY (CAST(:only AS uuid[])))
  AND NOT EXISTS (
    SELECT FROM leora_pipeline.set_aside_customer AS a
    WHERE a.tenant_id = s.tenant_id AND a.customer_id = s.customer_id
      AND a.retry_at > clock_timestamp()
  )
ORDER BY s.customer_id
LIMIT :batch
FOR NO KEY UPDATE OF c, s SKIP LOCKED

-- name: lost_customers
-- Those of the locked customers who would be demoted because an order is gone.
SELECT s.customer_id
FROM leora_pipeline.tenant_thresholds(
  ARRAY[CAST(:tenant_id AS uuid)], CAST(:as_of AS timestamptz)
) AS q
CROSS JOIN leora_pipeline.customer_state AS s
JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
WHERE s.tenant_id = :tenant_id AND s.customer_id = ANY (CAST(:customer_ids AS uuid[]))
  AND leora_pipeline.is_lost(
    c."accountType"::text, s.account_type, s.told_order_at,
    q.active_since, q.target_since
  )

-- name: write_customers
-- Writes the locked customers, and counts what became of them.
SELECT
  count(*) FILTER (WHERE is_written) AS written,
  count(*) FILTER (WHERE is_moved) AS moved,
  count(*) FILTER (WHERE is_withheld) AS withheld
FROM leora_pipeline.write_customers(
  :tenant_id, CAST(:customer_ids AS uuid[]), CAST(:as_of AS timestamptz),
  CAST(:write_dates AS boolean), CAST(:held AS boolean), :run_id, :path
)
