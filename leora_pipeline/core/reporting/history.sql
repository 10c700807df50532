-- name: find_customer
-- One customer and its tenant, as the CRM names them.
SELECT c.name, c."tenantId" AS tenant_id, t.slug AS tenant_slug
FROM "Customer" AS c
JOIN "Tenant" AS t ON t.id = c."tenantId"
WHERE c.id = :customer_id

-- name: find_deleted_customer
-- The tenant of a customer that the CRM no longer has, while its state is still there.
SELECT s.tenant_id, t.slug AS tenant_slug
FROM leora_pipeline.customer_state AS s
LEFT JOIN "Tenant" AS t ON t.id = s.tenant_id
WHERE s.customer_id = :customer_id
ORDER BY s.as_of DESC
LIMIT 1

-- name: today
-- What the rule gives one customer, why, where the CRM differs, and what that waits for. An
-- incremental run sees a customer that is pending, unsynced, or due by time; everything else is found by full runs. What a hold stops is what
-- apply withholds: a lower type, and a date that goes back.
SELECT
  d.crm_type,
  d.account_type,
  leora_pipeline.is_pinned(d.crm_type) AS is_pinned,
  d.last_order_at,
  leora_pipeline.usable_date(d.crm_order_at AT TIME ZONE 'UTC') AS crm_order_at,
  d.next_order_at,
  leora_pipeline.type_reason(
    d.last_order_at, d.account_type, CAST(:as_of AS timestamptz),
    q.threshold_unit, q.active_within, q.target_within
  ) AS reason,
  w.type_differs,
  w.date_differs,
  CASE WHEN w.type_differs THEN leora_pipeline.change_cause(
    NOT f.is_waiting AND leora_pipeline.is_order_loss(
      d.crm_type, d.account_type, d.synced_order_at, d.last_order_at, d.active_since, d.target_since
    ),
    f.is_waiting OR COALESCE(s.reclassified_by_policy AND d.is_current, false),
    d.crm_type, d.account_type, d.synced_type, d.synced_order_at, d.last_order_at, NULL
  ) END AS cause,
  CASE WHEN w.type_differs
      AND leora_pipeline.is_type_withheld(true, d.crm_type, d.account_type)
    OR w.date_differs AND leora_pipeline.is_date_withheld(true, d.crm_order_at, d.last_order_at)
    THEN h.held_at END AS held_since,
  p.captured_at AS pending_since,
  s.error AS quarantine_error,
  s.retry_at,
  p.captured_at IS NOT NULL OR d.needs_sync AND d.is_current OR EXISTS (
    SELECT FROM (
-- include: core.customers.actionable.due_customers
    ) AS u
    WHERE u.customer_id = d.customer_id
  ) AS is_incremental
FROM (VALUES (CAST(:tenant_id AS uuid))) AS t (tenant_id)
CROSS JOIN LATERAL leora_pipeline.effective_policy(t.tenant_id) AS q
CROSS JOIN leora_pipeline.derive_customers(
  ARRAY[CAST(:tenant_id AS uuid)], ARRAY[CAST(:customer_id AS uuid)], CAST(:as_of AS timestamptz)
) AS d
CROSS JOIN LATERAL (
  SELECT
    leora_pipeline.type_differs(d.crm_type, d.account_type) AS type_differs,
    leora_pipeline.date_differs(
      d.crm_order_at, d.last_order_at, d.ever_ordered, CAST(:write_dates AS boolean)
    ) AS date_differs
) AS w
CROSS JOIN LATERAL (
  SELECT min(n.captured_at) AS captured_at
  FROM leora_pipeline.pending_customer AS n
  WHERE n.tenant_id = d.tenant_id AND n.customer_id = d.customer_id
) AS p
LEFT JOIN leora_pipeline.hold_in_force AS h ON h.tenant_id = d.tenant_id
LEFT JOIN leora_pipeline.customer_state AS s
  ON s.tenant_id = d.tenant_id AND s.customer_id = d.customer_id
CROSS JOIN LATERAL (
  SELECT EXISTS (
    SELECT FROM leora_pipeline.policy_reclassification AS n
    WHERE n.tenant_id = d.tenant_id AND n.customer_id = d.customer_id
      AND n.type_after = d.account_type
  ) AS is_waiting
) AS f

-- name: transitions
-- Every logged change of a customer's type, oldest first, and whether anything but the
-- pipeline had changed the type since the one before. Over all tenants, those that are gone among
-- them, since a customer may have moved.
SELECT
  l.tenant_id, t.slug AS tenant_slug, l.recorded_at, l.from_type, l.to_type, l.last_order_at,
  l.as_of, l.cause, l.run_id,
  l.cause = 'by hand' OR COALESCE(
    l.from_type IS DISTINCT FROM lag(l.to_type) OVER earlier
    AND row_number() OVER earlier > 1, false
  ) AS is_set_by_hand
FROM leora_pipeline.account_type_transition AS l
LEFT JOIN "Tenant" AS t ON t.id = l.tenant_id
WHERE l.customer_id = :customer_id
WINDOW earlier AS (PARTITION BY l.tenant_id ORDER BY l.recorded_at, l.transition_id)
ORDER BY l.recorded_at, l.transition_id

-- name: orders
-- A customer's newest orders, how many there are in all, and why each does not count (null where
-- it does). Those that make the last order date are among them however old they are.
SELECT
  l.order_id,
  l.order_number,
  l.ordered_at,
  l.written_date,
  l.status,
  l.total,
  l.exclusion,
  l.makes_last_order_date,
  l.orders_total
FROM (
  SELECT
    o.id AS order_id,
    CAST(
      -- optional: o."orderNumber"
    AS text) AS order_number,
    u.ordered_at,
    o."orderedAt"::text AS written_date,
    o.status::text AS status,
    CAST(
      -- optional: o."total"
    AS text) AS total,
    e.exclusion,
    COALESCE(
      e.exclusion IS NULL AND u.ordered_at = CAST(:last_order_at AS timestamptz), false
    ) AS makes_last_order_date,
    row_number() OVER (ORDER BY u.ordered_at DESC NULLS LAST, o.id) AS place,
    count(*) OVER () AS orders_total
  FROM leora_pipeline.effective_policy(:tenant_id) AS q
  CROSS JOIN "Order" AS o
  CROSS JOIN LATERAL (
    SELECT leora_pipeline.usable_date(o."orderedAt") AS ordered_at
  ) AS u
  CROSS JOIN LATERAL (
    SELECT CASE
      WHEN o."tenantId" <> q.tenant_id THEN 'tenant'
      WHEN o.status::text = ANY (q.uncounted_statuses) THEN 'status'
      WHEN o."orderedAt" IS NULL THEN 'no date'
      WHEN u.ordered_at IS NULL THEN 'unreadable date'
      WHEN u.ordered_at > CAST(:as_of AS timestamptz) THEN 'future'
    END AS exclusion
  ) AS e
  WHERE o."customerId" = :customer_id
) AS l
WHERE l.place <= :limit OR l.makes_last_order_date
ORDER BY l.place
