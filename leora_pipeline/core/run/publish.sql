-- name: results
-- The customers of each tenant by type, in one read, beside what a run moved and whether the tenant
-- is held. Customers without a type yet are in no column.
SELECT n.*, m.to_active, m.to_target, m.to_prospect, EXISTS (
  SELECT FROM leora_pipeline.hold_in_force AS h WHERE h.tenant_id = n.tenant_id
) AS held
FROM (
  SELECT
    t.id AS tenant_id,
    t.place,
    count(*) FILTER (WHERE c.type = 'ACTIVE') AS active,
    count(*) FILTER (WHERE c.type = 'TARGET') AS target,
    count(*) FILTER (WHERE c.type = 'PROSPECT') AS prospect,
    count(*) FILTER (WHERE leora_pipeline.is_pinned(c.type)) AS pinned
  FROM unnest(CAST(:tenant_ids AS uuid[])) WITH ORDINALITY AS t (id, place)
  LEFT JOIN (
    SELECT "tenantId", "accountType"::text AS type FROM "Customer"
  ) AS c ON c."tenantId" = t.id
  GROUP BY t.id, t.place
) AS n
CROSS JOIN LATERAL (
  SELECT
    count(*) FILTER (WHERE to_type = 'ACTIVE') AS to_active,
    count(*) FILTER (WHERE to_type = 'TARGET') AS to_target,
    count(*) FILTER (WHERE to_type = 'PROSPECT') AS to_prospect
  FROM leora_pipeline.account_type_transition
  WHERE tenant_id = n.tenant_id AND run_id = :run_id
) AS m
ORDER BY n.place

-- name: publish_distribution
-- One row a tenant and day; of two runs in a day the later instant stands.
INSERT INTO leora_pipeline.account_type_distribution
  (tenant_id, day, as_of, active, target, prospect, pinned)
VALUES (:tenant_id, :day, :as_of, :active, :target, :prospect, :pinned)
ON CONFLICT (tenant_id, day) DO UPDATE SET
  as_of = EXCLUDED.as_of,
  active = EXCLUDED.active,
  target = EXCLUDED.target,
  prospect = EXCLUDED.prospect,
  pinned = EXCLUDED.pinned
WHERE EXCLUDED.as_of >= account_type_distribution.as_of
