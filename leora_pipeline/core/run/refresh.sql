-- name: outdated_customers
-- The customers whose state is outdated, and those whose state says wrongly that the CRM agrees, or
-- that it does not; and the pending ones, so that full runs alone drain those too. Streamed.
SELECT d.tenant_id, d.customer_id
FROM leora_pipeline.derive_customers(
  CAST(:tenant_ids AS uuid[]), NULL, CAST(:as_of AS timestamptz)
) AS d
WHERE NOT d.is_current
  OR d.needs_sync IS DISTINCT FROM (
    leora_pipeline.type_differs(d.crm_type, d.account_type)
    OR leora_pipeline.date_differs(
      d.crm_order_at, d.last_order_at, d.ever_ordered, CAST(:write_dates AS boolean)
    )
  )
UNION
SELECT p.tenant_id, p.customer_id
FROM leora_pipeline.pending_customer AS p
WHERE p.tenant_id = ANY (CAST(:tenant_ids AS uuid[]))
ORDER BY tenant_id, customer_id

-- name: changed_customers
-- The customers that an incremental run refreshes: the pending and the due. Nothing here grows with
-- the tables. Streamed.
SELECT p.tenant_id, p.customer_id
FROM leora_pipeline.pending_customer AS p
WHERE p.tenant_id = ANY (CAST(:tenant_ids AS uuid[]))
UNION
SELECT t.tenant_id, d.customer_id
FROM unnest(CAST(:tenant_ids AS uuid[])) AS t (tenant_id)
CROSS JOIN LATERAL (
-- include: core.customers.actionable.due_customers
) AS d
ORDER BY tenant_id, customer_id

-- name: analyze_states
-- Fresh statistics after many states were written; skipped where another session is at it.
ANALYZE (SKIP_LOCKED) leora_pipeline.customer_state

-- name: delete_states_of_deleted_customers
-- Deletes the states of customers that are gone, those of tenants that are gone among them. States
-- that another session holds stay for the next run: two runs could wait for each other here.
DELETE FROM leora_pipeline.customer_state AS d
USING (
  SELECT s.tenant_id, s.customer_id
  FROM leora_pipeline.customer_state AS s
  WHERE NOT EXISTS (
    SELECT FROM "Customer" AS c WHERE c."tenantId" = s.tenant_id AND c.id = s.customer_id
  ) AND (
    s.tenant_id = ANY (CAST(:tenant_ids AS uuid[]))
    OR NOT EXISTS (SELECT FROM "Tenant" AS t WHERE t.id = s.tenant_id)
  )
  FOR UPDATE OF s SKIP LOCKED
) AS gone
WHERE d.tenant_id = gone.tenant_id AND d.customer_id = gone.customer_id

-- name: delete_pending_of_deleted_tenants
-- Deletes what is pending for tenants that are gone, and no session has claimed.
DELETE FROM leora_pipeline.pending_customer AS p
USING (
  SELECT q.tenant_id, q.pending_id
  FROM leora_pipeline.pending_customer AS q
  WHERE NOT EXISTS (SELECT FROM "Tenant" AS t WHERE t.id = q.tenant_id)
  FOR UPDATE OF q SKIP LOCKED
) AS gone
WHERE p.tenant_id = gone.tenant_id AND p.pending_id = gone.pending_id

-- name: delete_reclassifications_of_deleted_customers
-- Deletes what a change of policy made of customers, or tenants, that are gone.
DELETE FROM leora_pipeline.policy_reclassification AS f
USING (
  SELECT g.tenant_id, g.reclassification_id
  FROM leora_pipeline.policy_reclassification AS g
  WHERE NOT EXISTS (
    SELECT FROM "Customer" AS c WHERE c."tenantId" = g.tenant_id AND c.id = g.customer_id
  )
  FOR UPDATE OF g SKIP LOCKED
) AS gone
WHERE f.tenant_id = gone.tenant_id AND f.reclassification_id = gone.reclassification_id
