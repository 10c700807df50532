-- name: states
-- What the orders say: each tenant's customers by derived type.
SELECT
  t.slug AS tenant,
  count(s.customer_id) AS customers,
  count(*) FILTER (WHERE s.account_type = 'ACTIVE') AS active,
  count(*) FILTER (WHERE s.account_type = 'TARGET') AS target,
  count(*) FILTER (WHERE s.account_type = 'PROSPECT') AS prospect,
  count(*) FILTER (WHERE s.ever_ordered) AS ever_ordered,
  count(*) FILTER (WHERE s.needs_sync) AS needs_sync
FROM "Tenant" AS t
LEFT JOIN leora_pipeline.customer_state AS s ON s.tenant_id = t.id
GROUP BY t.slug
ORDER BY t.slug

-- name: changes
-- Each tenant's latest plan: moves into each type, rows where only the date differs, and a hold.
SELECT
  t.slug AS tenant,
  count(c.customer_id) AS customers,
  count(*) FILTER (WHERE c.from_type IS DISTINCT FROM c.to_type AND c.to_type = 'ACTIVE')
    AS to_active,
  count(*) FILTER (WHERE c.from_type IS DISTINCT FROM c.to_type AND c.to_type = 'TARGET')
    AS to_target,
  count(*) FILTER (WHERE c.from_type IS DISTINCT FROM c.to_type AND c.to_type = 'PROSPECT')
    AS to_prospect,
  count(*) FILTER (WHERE c.from_type = c.to_type) AS date_only,
  EXISTS (SELECT FROM leora_pipeline.hold_in_force AS h WHERE h.tenant_id = t.id) AS held
FROM "Tenant" AS t
LEFT JOIN leora_pipeline.account_type_change AS c ON c.tenant_id = t.id
GROUP BY t.id, t.slug
ORDER BY t.slug

-- name: customers
-- Each tenant's customers as the CRM has them.
SELECT
  t.slug AS tenant,
  count(c.id) AS customers,
  count(*) FILTER (WHERE c."accountType"::text = 'ACTIVE') AS active,
  count(*) FILTER (WHERE c."accountType"::text = 'TARGET') AS target,
  count(*) FILTER (WHERE c."accountType"::text = 'PROSPECT') AS prospect,
  count(*) FILTER (WHERE leora_pipeline.is_pinned(c."accountType"::text)) AS pinned,
  count(c.id) FILTER (WHERE c."accountType" IS NULL) AS unclassified
FROM "Tenant" AS t
LEFT JOIN "Customer" AS c ON c."tenantId" = t.id
GROUP BY t.slug
ORDER BY t.slug

-- name: distributions
-- Each tenant's latest published distribution.
SELECT
  t.slug AS tenant, d.as_of, d.active, d.target, d.prospect, d.pinned, d.total,
  d.active_pct::double precision AS active_pct,
  d.target_pct::double precision AS target_pct,
  d.prospect_pct::double precision AS prospect_pct
FROM "Tenant" AS t
JOIN LATERAL (
  SELECT * FROM leora_pipeline.account_type_distribution AS a
  WHERE a.tenant_id = t.id
  ORDER BY a.as_of DESC
  LIMIT 1
) AS d ON true
ORDER BY t.slug

-- name: digests
-- Each tenant's win-back digests: how many there are, and when the latest was written.
SELECT t.slug AS tenant, count(m.message_id) AS digests, max(m.created_at) AS last_digest_at
FROM "Tenant" AS t
LEFT JOIN leora_pipeline.alert_message AS m ON m.tenant_id = t.id AND m.kind = 'win_back'
GROUP BY t.slug
ORDER BY t.slug

-- name: published_days
-- How many rows of history there are.
SELECT count(*) AS days FROM leora_pipeline.account_type_distribution
