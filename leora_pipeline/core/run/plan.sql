-- name: delete_plan
-- Deletes a tenant's latest plan.
DELETE FROM leora_pipeline.account_type_change WHERE tenant_id = :tenant_id

-- name: plan_from_state
-- The change set of one tenant, from the state: where the CRM needs a sync.
INSERT INTO leora_pipeline.account_type_change
  (run_id, tenant_id, customer_id, from_type, to_type, last_order_at, reason)
SELECT
  :run_id, s.tenant_id, s.customer_id, c."accountType"::text,
  CASE WHEN d.type_differs THEN s.account_type ELSE c."accountType"::text END,
  s.last_order_at,
  CASE WHEN d.type_differs THEN leora_pipeline.type_reason(
    s.last_order_at, s.account_type, CAST(:as_of AS timestamptz),
    q.threshold_unit, q.active_within, q.target_within
  ) ELSE 'Only the last order date changes' END
FROM leora_pipeline.effective_policy(:tenant_id) AS q
CROSS JOIN leora_pipeline.customer_state AS s
JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
CROSS JOIN LATERAL (
  SELECT leora_pipeline.type_differs(c."accountType"::text, s.account_type) AS type_differs
) AS d
WHERE s.tenant_id = :tenant_id AND s.needs_sync
  AND (d.type_differs OR leora_pipeline.date_differs(
    c."lastOrderDate" AT TIME ZONE 'UTC', s.last_order_at, s.ever_ordered,
    CAST(:write_dates AS boolean)
  ))

-- name: plan_from_orders
-- The change set that a full run would make of one tenant, read off its orders.
INSERT INTO leora_pipeline.account_type_change
  (run_id, tenant_id, customer_id, from_type, to_type, last_order_at, reason)
SELECT
  :run_id, e.tenant_id, e.customer_id, e.crm_type,
  CASE WHEN d.type_differs THEN e.account_type ELSE e.crm_type END,
  e.last_order_at,
  CASE WHEN d.type_differs THEN leora_pipeline.type_reason(
    e.last_order_at, e.account_type, CAST(:as_of AS timestamptz),
    q.threshold_unit, q.active_within, q.target_within
  ) ELSE 'Only the last order date changes' END
FROM leora_pipeline.effective_policy(:tenant_id) AS q
CROSS JOIN leora_pipeline.derive_customers(
  ARRAY[CAST(:tenant_id AS uuid)], NULL, CAST(:as_of AS timestamptz)
) AS e
CROSS JOIN LATERAL (
  SELECT leora_pipeline.type_differs(e.crm_type, e.account_type) AS type_differs
) AS d
WHERE d.type_differs OR leora_pipeline.date_differs(
  e.crm_order_at, e.last_order_at, e.ever_ordered, CAST(:write_dates AS boolean)
)
