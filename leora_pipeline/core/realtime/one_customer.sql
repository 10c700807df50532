-- name: find_customer
-- One customer as the CRM and the state have it.
SELECT c."tenantId" AS tenant_id, c."accountType"::text AS account_type, s.last_order_at
FROM "Customer" AS c
LEFT JOIN leora_pipeline.customer_state AS s
  ON s.tenant_id = c."tenantId" AND s.customer_id = c.id
WHERE c.id = :customer_id
