-- name: due_customers
-- Of tenant t: the customers that are due by time alone. A threshold has passed since their state was
-- derived (or was changed), a future order has come due, or a quarantined one may be retried. Found by
-- index ranges, never by a scan.
SELECT s.customer_id
FROM leora_pipeline.tenant_thresholds(ARRAY[t.tenant_id], CAST(:as_of AS timestamptz)) AS q
CROSS JOIN LATERAL (
  SELECT a.customer_id FROM leora_pipeline.customer_state AS a
  WHERE a.tenant_id = t.tenant_id AND a.retry_at IS NULL
    AND a.account_type = 'ACTIVE' AND a.last_order_at < q.active_since
  UNION ALL
  SELECT b.customer_id FROM leora_pipeline.customer_state AS b
  WHERE b.tenant_id = t.tenant_id AND b.retry_at IS NULL
    AND b.account_type = 'TARGET' AND b.last_order_at < q.target_since
  UNION ALL
  SELECT c.customer_id FROM leora_pipeline.customer_state AS c
  WHERE c.tenant_id = t.tenant_id AND c.retry_at IS NULL
    AND c.account_type = 'TARGET' AND c.last_order_at >= q.active_since
  UNION ALL
  SELECT d.customer_id FROM leora_pipeline.customer_state AS d
  WHERE d.tenant_id = t.tenant_id AND d.retry_at IS NULL
    AND d.account_type = 'PROSPECT' AND d.last_order_at >= q.target_since
  UNION ALL
  SELECT e.customer_id FROM leora_pipeline.customer_state AS e
  WHERE e.tenant_id = t.tenant_id AND e.retry_at IS NULL
    AND e.next_order_at <= CAST(:as_of AS timestamptz)
  UNION ALL
  SELECT f.customer_id FROM leora_pipeline.customer_state AS f
  WHERE f.tenant_id = t.tenant_id AND f.retry_at <= CAST(:as_of AS timestamptz)
) AS s

-- name: unsynced_customers
-- Of tenant t: the customers that still have to be written to the CRM, and may be. Of a held tenant
-- these are only the ones that rise.
SELECT s.customer_id
FROM leora_pipeline.customer_state AS s
JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
WHERE s.tenant_id = t.tenant_id AND s.needs_sync AND s.retry_at IS NULL AND (
  c."accountType" IS NULL
  OR leora_pipeline.type_rank(s.account_type) > leora_pipeline.type_rank(c."accountType"::text)
  OR NOT EXISTS (
    SELECT FROM leora_pipeline.hold_in_force AS h WHERE h.tenant_id = s.tenant_id
  )
)

-- name: actionable_customers
-- Of tenant t: the customers that there is work for although no change of them is pending. One that
-- is both due and unsynced comes twice.
-- include: core.customers.actionable.due_customers
UNION ALL
-- include: core.customers.actionable.unsynced_customers

-- name: actionable_tenants
-- The tenants (of those named, or all) with an actionable customer, or, where that is asked, with a
-- pending one. The first customer that is found is enough.
SELECT t.tenant_id
FROM (
  SELECT id AS tenant_id FROM "Tenant"
  WHERE CAST(:tenant_ids AS uuid[]) IS NULL OR id = ANY (CAST(:tenant_ids AS uuid[]))
) AS t
WHERE CAST(:or_pending AS boolean) AND EXISTS (
  SELECT FROM leora_pipeline.pending_customer AS p WHERE p.tenant_id = t.tenant_id
) OR EXISTS (
-- include: core.customers.actionable.actionable_customers
)
