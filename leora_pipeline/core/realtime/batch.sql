-- name: claim_pending
-- The next pending rows of a tenant that no other session has claimed, claimed until the transaction ends.
SELECT
  p.pending_id,
  p.customer_id,
  EXISTS (
    SELECT FROM leora_pipeline.customer_state AS s
    WHERE s.tenant_id = p.tenant_id AND s.customer_id = p.customer_id
      AND s.retry_at > clock_timestamp()
  ) AS is_quarantined,
  (
    SELECT count(*) = :batch FROM (
      SELECT FROM leora_pipeline.pending_customer WHERE tenant_id = :tenant_id LIMIT :batch
    ) AS q
  ) AS exceeds_batch
FROM leora_pipeline.pending_customer AS p
WHERE p.tenant_id = :tenant_id AND p.pending_id > :after
ORDER BY p.pending_id
LIMIT :batch
FOR UPDATE OF p SKIP LOCKED

-- name: delete_claimed
-- Deletes claimed rows of quarantined customers: those are retried anyway.
DELETE FROM leora_pipeline.pending_customer
WHERE tenant_id = :tenant_id AND pending_id = ANY (CAST(:pending_ids AS bigint[]))

-- name: actionable_customers
-- The next actionable customers of a tenant.
SELECT DISTINCT w.customer_id
FROM (VALUES (CAST(:tenant_id AS uuid))) AS t (tenant_id)
CROSS JOIN LATERAL (
-- include: core.customers.actionable.actionable_customers
) AS w
WHERE w.customer_id > CAST(:after AS uuid)
ORDER BY w.customer_id
LIMIT :batch

-- name: exceeds_batch
-- Whether a batch or more is pending for a tenant.
SELECT count(*) = :batch
FROM (
  SELECT FROM leora_pipeline.pending_customer WHERE tenant_id = :tenant_id LIMIT :batch
) AS p
