-- name: preview_counts
-- Customers by tenant, type in the CRM and type by the rule, and how many of them orders that
-- are gone would demote, not a changed policy; with those that they demoted within the last 24 hours.
SELECT
  d.tenant_id,
  d.crm_type,
  d.account_type,
  leora_pipeline.is_pinned(d.crm_type) AS is_pinned,
  count(*) AS customers,
  count(*) FILTER (WHERE o.is_order_loss) AS new_order_loss,
  count(*) FILTER (
    WHERE o.is_order_loss OR leora_pipeline.type_rank(d.account_type) < l.rank_before
  ) AS order_loss
FROM leora_pipeline.derive_customers(
  CAST(:tenant_ids AS uuid[]), NULL, CAST(:as_of AS timestamptz)
) AS d
CROSS JOIN LATERAL (
  SELECT leora_pipeline.is_order_loss(
    d.crm_type, d.account_type, d.synced_order_at, d.last_order_at,
    d.active_since, d.target_since
  ) AND NOT EXISTS (
    SELECT FROM leora_pipeline.policy_reclassification AS f
    WHERE f.tenant_id = d.tenant_id AND f.customer_id = d.customer_id
      AND f.type_after = d.account_type
  ) AS is_order_loss
) AS o
LEFT JOIN (
-- include: core.customers.gate.recent_order_loss
) AS l ON l.tenant_id = d.tenant_id AND l.customer_id = d.customer_id
GROUP BY d.tenant_id, d.crm_type, d.account_type
ORDER BY d.tenant_id, leora_pipeline.type_rank(d.crm_type) DESC NULLS LAST,
  leora_pipeline.type_rank(d.account_type) DESC

-- name: misclassified
-- The first customers of each tenant, by name, whose type is not the one that the rule gives.
SELECT
  w.tenant_id, w.customer_id, c.name, w.crm_type, w.account_type, w.last_order_at,
  leora_pipeline.type_reason(
    w.last_order_at, w.account_type, CAST(:as_of AS timestamptz),
    q.threshold_unit, q.active_within, q.target_within
  ) AS reason
FROM (
  SELECT d.*, row_number() OVER (PARTITION BY d.tenant_id ORDER BY n.name, d.customer_id) AS place
  FROM leora_pipeline.derive_customers(
    CAST(:tenant_ids AS uuid[]), NULL, CAST(:as_of AS timestamptz)
  ) AS d
  JOIN "Customer" AS n ON n."tenantId" = d.tenant_id AND n.id = d.customer_id
  WHERE leora_pipeline.type_differs(d.crm_type, d.account_type)
) AS w
JOIN "Customer" AS c ON c."tenantId" = w.tenant_id AND c.id = w.customer_id
CROSS JOIN LATERAL leora_pipeline.effective_policy(w.tenant_id) AS q
WHERE w.place <= :limit
ORDER BY w.tenant_id, w.place
