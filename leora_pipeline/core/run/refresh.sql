-- name: outdated_customers
-- The customers whose state is outdated, and those whose state says wrongly that the CRM agrees, or
-- that it does not; and those who are pending, so that full runs alone drain those too. Parameters
-- as the driver writes them, since this one is streamed.
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

-- name: customers_to_look_at
-- The customers for whom an incremental run has something to do: those whom a change concerns, and
-- those who are overdue. Nothing here grows with the tables. Streamed like the one above.
SELECT p.tenant_id, p.customer_id
FROM leora_pipeline.pending_customer AS p
WHERE p.tenant_id = ANY (CAST(:tenant_ids AS uuid[]))
UNION
SELECT d.tenant_id, d.customer_id
FROM leora_pipeline.due_customers_and_retries(CAST(:tenant_ids AS uuid[]), CAST(:as_of AS timestamptz)) AS d
ORDER BY tenant_id, customer_id

-- name: actionable_tenants
-- The tenants for whom an incremental run has something to do: one of those customers, or one that
-- the CRM has still to be told about. The first that is found is enough.
SELECT t.tenant_id
FROM unnest(CAST(:tenant_ids AS uuid[])) AS t (tenant_id)
CROSS JOIN LATERAL (
  (
    SELECT p.customer_id
    FROM leora_pipeline.pending_customer AS p
    WHERE p.tenant_id = t.tenant_id
    LIMIT 1
  )
  UNION ALL
  (
    SELECT d.customer_id
    FROM leora_pipeline.due_customers_and_retries(ARRAY[t.tenant_id], CAST(:as_of AS timestamptz)) AS d
    LIMIT 1
  )
  UNION ALL
  (SELECT u.customer_id FROM leora_pipeline.unsynced_customers(ARRAY[t.tenant_id]) AS u LIMIT 1)
  LIMIT 1
) AS waiting

-- name: analyze_states
-- Fresh statistics after many states were written; passed over where somebody else is at it.
ANALYZE (SKIP_LOCKED) leora_pipeline.customer_state

-- name: delete_states_of_deleted_customers
-- Deletes the states of customers that are gone, those of tenants that are gone among them. States
-- that somebody holds are left to the next run: two runs could wait for each other here.
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
-- Deletes what is pending for tenants that are gone, and has not been claimed by anybody.
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
