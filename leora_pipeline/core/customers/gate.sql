-- name: is_held
-- Whether a hold is in force.
SELECT EXISTS (SELECT FROM leora_pipeline.hold_in_force WHERE tenant_id = :tenant_id)

-- name: has_unsynced_order_loss
-- Whether the demotion by order loss of any customer of a tenant is unsynced.
SELECT EXISTS (
-- include: core.customers.gate.unsynced_order_loss
)

-- name: unsynced_order_loss
-- The customers of a tenant whose demotion by order loss is unsynced; an index finds the few.
SELECT s.customer_id
FROM leora_pipeline.tenant_thresholds(
  ARRAY[CAST(:tenant_id AS uuid)], CAST(:as_of AS timestamptz)
) AS q
CROSS JOIN leora_pipeline.customer_state AS s
JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
WHERE s.tenant_id = :tenant_id
  AND s.needs_sync
  AND leora_pipeline.is_order_loss(
    c."accountType"::text, s.account_type, s.synced_order_at, s.last_order_at,
    q.active_since, q.target_since
  )

-- name: recent_order_loss
-- The customers of tenants that order loss has demoted within the last 24 hours, and the type that each
-- had before. Demotions that a run was allowed to make are left out.
SELECT
  t.tenant_id, t.customer_id, max(leora_pipeline.type_rank(t.from_type)) AS rank_before
FROM leora_pipeline.account_type_transition AS t
LEFT JOIN leora_pipeline.tenant_run AS r ON r.tenant_id = t.tenant_id AND r.run_id = t.run_id
WHERE t.tenant_id = ANY (CAST(:tenant_ids AS uuid[])) AND t.cause = 'order removed'
  AND t.recorded_at > clock_timestamp() - interval '24 hours'
  AND NOT COALESCE(r.mass_change_allowed, false)
GROUP BY t.tenant_id, t.customer_id

-- name: count_order_loss
-- The customers of a tenant whose demotion by order loss is unsynced, and those demoted so within the
-- last 24 hours that still are: each once, however often its orders came and went.
SELECT count(*)
FROM (
-- include: core.customers.gate.unsynced_order_loss
  UNION
  SELECT s.customer_id
  FROM (
-- include: core.customers.gate.recent_order_loss
  ) AS l
  JOIN leora_pipeline.customer_state AS s
    ON s.tenant_id = l.tenant_id AND s.customer_id = l.customer_id
  WHERE leora_pipeline.type_rank(s.account_type) < l.rank_before
) AS lost

-- name: judge
-- Customers demoted by order loss against the tenant's limits. The classified customers are counted only
-- as far as it takes to know that there are enough of them.
SELECT
  l.order_loss,
  k.classified,
  l.order_loss > q.gate_customers AND l.order_loss > q.gate_percent / 100 * k.classified
    AS is_excess
FROM leora_pipeline.effective_policy(:tenant_id) AS q
CROSS JOIN (SELECT CAST(:order_loss AS bigint) AS order_loss) AS l
CROSS JOIN LATERAL (
  SELECT count(*) AS classified
  FROM (
    SELECT FROM "Customer" AS c
    WHERE c."tenantId" = :tenant_id
      AND c."accountType" IS NOT NULL AND NOT leora_pipeline.is_pinned(c."accountType"::text)
    LIMIT ceil(100 * l.order_loss / NULLIF(q.gate_percent, 0))
  ) AS enough
) AS k

-- name: hold
-- Puts a hold in force; there is at most one a tenant.
INSERT INTO leora_pipeline.tenant_hold
  (tenant_id, held_at, run_id, order_loss_customers, classified_customers)
VALUES (:tenant_id, clock_timestamp(), :run_id, :order_loss, :classified)

-- name: record_passage
-- Records a hold that is released as it begins, unless the run has released one already.
INSERT INTO leora_pipeline.tenant_hold (
  tenant_id, held_at, run_id, order_loss_customers, classified_customers, released_at, released_by
)
SELECT
  :tenant_id, clock_timestamp(), :run_id, :order_loss, :classified, clock_timestamp(), :released_by
WHERE NOT EXISTS (
  SELECT
  FROM leora_pipeline.tenant_hold AS h
  JOIN leora_pipeline.tenant_run AS r ON r.tenant_id = h.tenant_id AND r.run_id = :run_id
  WHERE h.tenant_id = :tenant_id
    AND h.released_by = :released_by AND h.released_at >= r.started_at
)

-- name: release
-- Ends the hold in force.
UPDATE leora_pipeline.tenant_hold
SET released_at = clock_timestamp(), released_by = :released_by
WHERE tenant_id = :tenant_id AND released_at IS NULL

-- name: tenant_holds
-- For each tenant of the CRM, the hold in force, if any.
SELECT
  t.id AS tenant_id, t.slug AS tenant_slug, h.held_at, h.order_loss_customers,
  h.classified_customers
FROM "Tenant" AS t
LEFT JOIN leora_pipeline.hold_in_force AS h ON h.tenant_id = t.id
ORDER BY t.slug
