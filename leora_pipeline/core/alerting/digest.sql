-- name: take_targets
-- Marks the tenant's transitions to TARGET that no digest has taken, and returns the customers to be
-- named: those that still are TARGET and not permanently closed, the latest orders first. City, sales
-- rep and whether a customer is closed are read as JSON, where a column that a CRM lacks is null.
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
    o.extra ->> 'city' AS city,
    o.extra ->> 'salesRepId' AS sales_rep,
    s.last_order_at
  FROM (SELECT DISTINCT customer_id FROM taken) AS t
  JOIN "Customer" AS c ON c."tenantId" = :tenant_id AND c.id = t.customer_id
  LEFT JOIN leora_pipeline.customer_state AS s
    ON s.tenant_id = :tenant_id AND s.customer_id = c.id
  CROSS JOIN LATERAL (SELECT to_jsonb(c) AS extra) AS o
  WHERE c."accountType"::text = 'TARGET'
    AND NOT COALESCE(CAST(o.extra ->> 'isPermanentlyClosed' AS boolean), false)
)
SELECT p.name, p.city, p.sales_rep, p.last_order_at, p.of_rep, p.customers
FROM (
  SELECT
    t.*,
    count(*) OVER () AS customers,
    count(*) OVER (PARTITION BY t.sales_rep) AS of_rep,
    row_number() OVER (
      PARTITION BY t.sales_rep ORDER BY t.last_order_at DESC NULLS LAST, t.name, t.id
    ) AS place
  FROM targets AS t
) AS p
WHERE p.place <= :named_of_a_rep
ORDER BY p.sales_rep NULLS LAST, p.place
LIMIT :named
