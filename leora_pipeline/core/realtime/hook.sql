-- name: wait_briefly
-- Ends what would wait, as the function does: for a locked table, or a state that another session creates.
SET LOCAL lock_timeout = '50ms'

-- name: tenants_of
-- The tenants of customers, and which of the customers are whose.
SELECT c."tenantId" AS tenant_id, array_agg(c.id) AS customer_ids
FROM "Customer" AS c
WHERE c.id = ANY (CAST(:customer_ids AS uuid[]))
GROUP BY c."tenantId"
ORDER BY c."tenantId"

-- name: after_order_create
-- Brings customers up to date, and counts by what became of them; of the unknown, their ids.
SELECT
  count(*) FILTER (WHERE outcome = 'updated') AS updated,
  count(*) FILTER (WHERE outcome = 'unchanged') AS unchanged,
  count(*) FILTER (WHERE outcome = 'deferred') AS deferred,
  COALESCE(array_agg(customer_id ORDER BY customer_id) FILTER (WHERE outcome = 'unknown'), '{}')
    AS unknown,
  max(error) AS error
FROM leora_pipeline.after_order_create(
  CAST(:customer_ids AS uuid[]), CAST(:write_dates AS boolean)
)
