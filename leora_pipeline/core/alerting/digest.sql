-- name: take_targets
-- Marks the tenant's transitions to TARGET that no digest has taken, and returns the customers to be
-- named: those that still are TARGET and not permanently closed, the latest orders first.
WITH taken AS (
  UPDATE leora_pipeline.account_type_transition
  SET digested_at = CAST(:now AS timestamptz)
  WHERE tenant_id = :tenant_id AND to_type = 'TARGET' AND digested_at IS NULL
  RETURNING customer_id
),
targets AS (
  SELECT
    c.id,
    c.name,
    CAST(
      -- optional: c."city"
    AS text) AS city,
    CAST(
      -- optional: c."salesRepId"
    AS text) AS sales_rep_id,
    s.last_order_at
  FROM (SELECT DISTINCT customer_id FROM taken) AS t
  JOIN "Customer" AS c ON c."tenantId" = :tenant_id AND c.id = t.customer_id
  LEFT JOIN leora_pipeline.customer_state AS s
    ON s.tenant_id = :tenant_id AND s.customer_id = c.id
  WHERE c."accountType"::text = 'TARGET' AND NOT COALESCE(CAST(
      -- optional: c."isPermanentlyClosed"
    AS boolean), false)
)
SELECT p.name, p.city, p.sales_rep_id, p.last_order_at, p.of_rep, p.customers
FROM (
  SELECT
    t.*,
    count(*) OVER () AS customers,
    count(*) OVER (PARTITION BY t.sales_rep_id) AS of_rep,
    row_number() OVER (
      PARTITION BY t.sales_rep_id ORDER BY t.last_order_at DESC NULLS LAST, t.name, t.id
    ) AS place
  FROM targets AS t
) AS p
WHERE p.place <= :named_of_a_rep
ORDER BY p.sales_rep_id NULLS LAST, p.place
LIMIT :named

-- name: sales_reps
-- The names of a tenant's sales reps, where the CRM has them and the role may read them.
SELECT r.id::text AS sales_rep_id, u."fullName" AS name
FROM "SalesRep" AS r
JOIN "User" AS u ON u.id = r."userId"
WHERE r."tenantId" = :tenant_id
