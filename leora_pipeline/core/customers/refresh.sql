-- name: ensure_customer_state
-- A first state for customers that have none.
SELECT leora_pipeline.ensure_customer_state(:tenant_id, CAST(:customer_ids AS uuid[]), NULL)

-- name: refresh_customers
-- Derives customers anew, and returns those whose state it could lock.
SELECT leora_pipeline.refresh_customers(
  :tenant_id, CAST(:customer_ids AS uuid[]), CAST(:as_of AS timestamptz),
  CAST(:write_dates AS boolean)
)

-- name: enqueue_customers
-- Makes customers pending, as a change of the CRM would.
INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
SELECT c."tenantId", c.id
FROM "Customer" AS c
WHERE c."tenantId" = :tenant_id AND c.id = ANY (CAST(:customer_ids AS uuid[]))
