-- name: orders_of_other_tenants
-- For each tenant, the orders of its own whose customer is another tenant's.
SELECT t.id AS tenant_id, t.slug AS tenant_slug, NULL AS unjudged, COALESCE(o.orders, 0) AS orders
FROM "Tenant" AS t
LEFT JOIN (
  SELECT o."tenantId", count(*) AS orders
  FROM "Order" AS o
  JOIN "Customer" AS c ON c.id = o."customerId"
  WHERE c."tenantId" <> o."tenantId"
  GROUP BY o."tenantId"
) AS o ON o."tenantId" = t.id
ORDER BY t.slug

-- name: future_orders
-- For each tenant, the share of its orders that is dated in the future.
SELECT
  t.id AS tenant_id,
  t.slug AS tenant_slug,
  CASE WHEN o.orders IS NULL THEN 'no orders' END AS unjudged,
  (100.0 * o.future / o.orders)::double precision AS future_pct,
  q.future_orders_above::double precision AS future_orders_above
FROM "Tenant" AS t
CROSS JOIN LATERAL leora_pipeline.effective_policy(t.id) AS q
LEFT JOIN (
  SELECT
    "tenantId",
    count(*) AS orders,
    count(*) FILTER (WHERE "orderedAt" > clock_timestamp() AT TIME ZONE 'UTC') AS future
  FROM "Order"
  GROUP BY "tenantId"
) AS o ON o."tenantId" = t.id
ORDER BY t.slug

-- name: state_sample
-- For each tenant, a random stretch of its customers whose last order date is derived anew. One
-- whose future order has come due since, or that is pending, is no error: the next run takes it up.
WITH start AS MATERIALIZED (
  SELECT t.id AS tenant_id, gen_random_uuid() AS customer_id FROM "Tenant" AS t
),
sample AS MATERIALIZED (
  SELECT s.tenant_id, s.customer_id, s.last_order_at, s.next_order_at, s.retry_at
  FROM start
  CROSS JOIN LATERAL (
    SELECT * FROM leora_pipeline.customer_state AS s
    WHERE s.tenant_id = start.tenant_id
    ORDER BY s.customer_id < start.customer_id, s.customer_id
    LIMIT :sample
  ) AS s
),
clock AS MATERIALIZED (SELECT clock_timestamp() AS as_of)
SELECT
  t.id AS tenant_id,
  t.slug AS tenant_slug,
  CASE WHEN count(s.customer_id) = 0 THEN 'no customers' END AS unjudged,
  count(s.customer_id) AS sampled,
  count(*) FILTER (
    WHERE d.last_order_at IS DISTINCT FROM s.last_order_at
      AND NOT COALESCE(s.next_order_at <= clock.as_of, false)
      AND NOT EXISTS (
        SELECT FROM leora_pipeline.pending_customer AS p
        WHERE p.tenant_id = s.tenant_id AND p.customer_id = s.customer_id
      )
      AND s.retry_at IS NULL
  ) AS wrong
FROM "Tenant" AS t
CROSS JOIN clock
LEFT JOIN (
  sample AS s
  JOIN leora_pipeline.derive_customers(
    (SELECT array_agg(DISTINCT tenant_id) FROM sample),
    (SELECT array_agg(customer_id) FROM sample),
    (SELECT as_of FROM clock)
  ) AS d ON d.tenant_id = s.tenant_id AND d.customer_id = s.customer_id
) ON s.tenant_id = t.id
GROUP BY t.id, t.slug
ORDER BY t.slug

-- name: disagreements
-- The first customers of each tenant whose type is not the one that the rule gives now. Those
-- that are due by time since their state was derived, and those that are pending, are no
-- disagreement: a run takes them up.
SELECT w.tenant_id, w.customer_id
FROM (
  SELECT
    d.tenant_id,
    d.customer_id,
    row_number() OVER (PARTITION BY d.tenant_id ORDER BY d.customer_id) AS place
  FROM leora_pipeline.derive_customers(
    CAST(:tenant_ids AS uuid[]), CAST(:customer_ids AS uuid[]), CAST(:as_of AS timestamptz)
  ) AS d
  LEFT JOIN leora_pipeline.customer_state AS s
    ON s.tenant_id = d.tenant_id AND s.customer_id = d.customer_id
  WHERE leora_pipeline.type_differs(d.crm_type, d.account_type)
    AND NOT COALESCE(
      s.next_order_at <= CAST(:as_of AS timestamptz)
      OR s.account_type <> leora_pipeline.derive_account_type(
        s.last_order_at, d.active_since, d.target_since
      ), false)
    AND NOT EXISTS (
      SELECT FROM leora_pipeline.pending_customer AS p
      WHERE p.tenant_id = d.tenant_id AND p.customer_id = d.customer_id
    )
    AND s.retry_at IS NULL
) AS w
WHERE w.place <= :inspected

-- name: distributions
-- For each tenant, its latest distribution beside its policy. The shares are taken from the counts,
-- since the published ones are rounded.
SELECT
  t.id AS tenant_id,
  t.slug AS tenant_slug,
  CASE
    WHEN d.tenant_id IS NULL THEN 'no distribution published yet'
    WHEN d.total < GREATEST(q.min_customers, 1)
      THEN d.total || ' customers (judged from ' || GREATEST(q.min_customers, 1) || ')'
  END AS unjudged,
  (100.0 * d.active / NULLIF(d.total, 0))::double precision AS active_pct,
  (100.0 * d.target / NULLIF(d.total, 0))::double precision AS target_pct,
  (100.0 * d.prospect / NULLIF(d.total, 0))::double precision AS prospect_pct,
  q.high_churn_below::double precision AS high_churn_below,
  q.poor_retention_above::double precision AS poor_retention_above,
  q.healthy_active_min::double precision AS healthy_active_min,
  q.healthy_active_max::double precision AS healthy_active_max,
  q.healthy_target_min::double precision AS healthy_target_min,
  q.healthy_target_max::double precision AS healthy_target_max,
  q.healthy_prospect_min::double precision AS healthy_prospect_min,
  q.healthy_prospect_max::double precision AS healthy_prospect_max
FROM "Tenant" AS t
CROSS JOIN LATERAL leora_pipeline.effective_policy(t.id) AS q
LEFT JOIN LATERAL (
  SELECT * FROM leora_pipeline.account_type_distribution AS a
  WHERE a.tenant_id = t.id
  ORDER BY a.as_of DESC
  LIMIT 1
) AS d ON true
ORDER BY t.slug

-- name: hours_since_full_run
-- For each tenant, how long ago its last full run succeeded. A tenant younger than the limit that
-- no night has come to yet is not judged.
SELECT
  t.id AS tenant_id,
  t.slug AS tenant_slug,
  CASE
    WHEN r.finished_at IS NULL
      AND t."createdAt" > (clock_timestamp() AT TIME ZONE 'UTC') - make_interval(hours => :stale_after)
      THEN 'a new tenant, not run yet'
  END AS unjudged,
  (extract(epoch FROM clock_timestamp() - COALESCE(r.finished_at, 'epoch')) / 3600)
    ::double precision AS hours_since
FROM "Tenant" AS t
LEFT JOIN LATERAL (
  SELECT max(finished_at) AS finished_at
  FROM leora_pipeline.tenant_run
  WHERE tenant_id = t.id AND mode = 'full' AND status = 'succeeded'
) AS r ON true
ORDER BY t.slug

-- name: verdicts_of_run
-- The verdicts that a run recorded.
SELECT
  v.check_name, v.tenant_id, t.slug AS tenant_slug, v.severity, v.status, v.message,
  v.checked_at
FROM leora_pipeline.health_verdict AS v
JOIN "Tenant" AS t ON t.id = v.tenant_id
WHERE v.run_id = :run_id
ORDER BY t.slug
