-- name: lock_customers
-- The next customers to be told, locked with their states, in the order of ids, passing over those
-- that somebody holds. NO KEY UPDATE, since FOR UPDATE would block new orders of these customers
-- through their foreign key.
SELECT s.customer_id
FROM leora_pipeline.customer_state AS s
JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
WHERE s.tenant_id = :tenant_id AND s.to_tell
  AND (CAST(:after AS uuid) IS NULL OR s.customer_id > CAST(:after AS uuid))
  AND (CAST(:only AS uuid[]) IS NULL OR s.customer_id = ANY (CAST(:only AS uuid[])))
ORDER BY s.customer_id
LIMIT :batch
FOR NO KEY UPDATE OF c, s SKIP LOCKED

-- name: count_lost
-- How many of the locked customers would be demoted because an order is gone.
SELECT count(*)
FROM leora_pipeline.tenant_thresholds(
  ARRAY[CAST(:tenant_id AS uuid)], CAST(:as_of AS timestamptz)
) AS q
CROSS JOIN leora_pipeline.customer_state AS s
JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
WHERE s.tenant_id = :tenant_id AND s.customer_id = ANY (CAST(:customer_ids AS uuid[]))
  AND leora_pipeline.is_lost(
    c."accountType"::text, s.account_type, s.told_order_at,
    q.active_since, q.target_since
  )

-- name: announce
-- Tells the trigger of "Customer" that what this transaction writes is the pipeline's own.
SET LOCAL leora_pipeline.is_applying = 'on'

-- name: write_customers
-- Writes the locked customers where they differ from their state, logs each change of type, and
-- notes what the CRM is told. A held tenant's downward moves are left, to be told another time: a
-- lower type, and a date that goes back. The enum is computed before the UPDATE, as distributed
-- tables ask for.
WITH differing AS (
  SELECT
    c.id,
    c."accountType" AS crm_type,
    c."accountType"::text AS from_type,
    c."lastOrderDate" AS crm_date,
    s.account_type,
    s.last_order_at,
    s.told_type,
    s.told_order_at,
    s.as_of,
    leora_pipeline.type_differs(c."accountType"::text, s.account_type) AS type_differs,
    leora_pipeline.date_differs(
      c."lastOrderDate" AT TIME ZONE 'UTC', s.last_order_at, s.ever_ordered,
      CAST(:write_dates AS boolean)
    ) AS date_differs,
    CAST(:held AS boolean) AND COALESCE(
      leora_pipeline.type_rank(s.account_type) < leora_pipeline.type_rank(c."accountType"::text),
      false
    ) AS is_held_type,
    CAST(:held AS boolean) AND c."lastOrderDate" IS NOT NULL AND COALESCE(
      s.last_order_at AT TIME ZONE 'UTC' < c."lastOrderDate", true
    ) AS is_held_date,
    leora_pipeline.is_lost(
      c."accountType"::text, s.account_type, s.told_order_at,
      q.active_since, q.target_since
    ) AS is_lost
  FROM leora_pipeline.tenant_thresholds(
    ARRAY[CAST(:tenant_id AS uuid)], CAST(:as_of AS timestamptz)
  ) AS q
  CROSS JOIN leora_pipeline.customer_state AS s
  JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
  WHERE s.tenant_id = :tenant_id AND s.customer_id = ANY (CAST(:customer_ids AS uuid[]))
),
moves AS MATERIALIZED (
  SELECT
    d.*,
    d.type_differs AND NOT d.is_held_type AS writes_type,
    d.date_differs AND NOT d.is_held_date AS writes_date,
    d.type_differs AND d.is_held_type OR d.date_differs AND d.is_held_date AS is_withheld,
    CASE WHEN d.type_differs AND NOT d.is_held_type THEN d.account_type::"AccountType"
         ELSE d.crm_type END AS new_type,
    CASE WHEN d.date_differs AND NOT d.is_held_date THEN d.last_order_at AT TIME ZONE 'UTC'
         ELSE d.crm_date END AS new_date
  FROM differing AS d
),
written AS (
  UPDATE "Customer" AS c
  SET "accountType" = m.new_type, "lastOrderDate" = m.new_date,
      "updatedAt" = CAST(:now AS timestamptz) AT TIME ZONE 'UTC'
  FROM moves AS m
  WHERE c."tenantId" = :tenant_id AND c.id = m.id AND (m.writes_type OR m.writes_date)
  RETURNING c.id
),
logged AS (
  INSERT INTO leora_pipeline.account_type_transition
    (tenant_id, customer_id, from_type, to_type, last_order_at, as_of, cause, run_id, recorded_at)
  SELECT
    :tenant_id, m.id, m.from_type, m.account_type, m.last_order_at, m.as_of,
    leora_pipeline.change_cause(
      m.is_lost, m.from_type, m.account_type, m.told_type, m.told_order_at, m.last_order_at,
      CAST(:path AS text)
    ),
    :run_id, CAST(:now AS timestamptz)
  FROM moves AS m
  WHERE m.writes_type
  ORDER BY m.id
  RETURNING customer_id
),
told AS (
  UPDATE leora_pipeline.customer_state AS s
  SET to_tell = m.is_withheld,
      told_type = m.new_type::text,
      told_order_at = CASE WHEN m.is_withheld THEN s.told_order_at ELSE m.last_order_at END
  FROM moves AS m
  WHERE s.tenant_id = :tenant_id AND s.customer_id = m.id AND (m.writes_type OR NOT m.is_withheld)
)
SELECT
  (SELECT count(*) FROM written) AS written,
  (SELECT count(*) FROM logged) AS moved,
  (SELECT count(*) FROM moves WHERE is_withheld) AS withheld
