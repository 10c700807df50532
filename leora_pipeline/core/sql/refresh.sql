-- name: stale_customers
-- The customers whose state is outdated, and those whose state says wrongly that the CRM agrees, or
-- that it does not; and those who are pending, so that full runs alone drain those too. Parameters
-- as the driver writes them, since this one is streamed.
SELECT d.tenant_id, d.customer_id
FROM leora_pipeline.derive_customers(
  %(tenant_ids)s::uuid[], NULL, %(as_of)s::timestamptz
) AS d
WHERE NOT d.is_current
  OR d.to_tell IS DISTINCT FROM (
    leora_pipeline.type_differs(d.crm_type, d.account_type)
    OR leora_pipeline.date_differs(
      d.crm_order_at, d.last_order_at, d.ever_ordered, %(write_dates)s::boolean
    )
  )
UNION
SELECT p.tenant_id, p.customer_id
FROM leora_pipeline.pending_customer AS p
WHERE p.tenant_id = ANY (%(tenant_ids)s::uuid[])
ORDER BY tenant_id, customer_id

-- name: waiting_customers
-- The customers for whom an incremental run has something to do: those whom a change concerns, and
-- those whom time has outdated. Nothing here grows with the tables. Streamed like the one above.
SELECT p.tenant_id, p.customer_id
FROM leora_pipeline.pending_customer AS p
WHERE p.tenant_id = ANY (%(tenant_ids)s::uuid[])
UNION
SELECT d.tenant_id, d.customer_id
FROM leora_pipeline.due_customers(%(tenant_ids)s::uuid[], %(as_of)s::timestamptz) AS d
ORDER BY tenant_id, customer_id

-- name: waiting_tenants
-- The tenants for whom an incremental run has something to do: one of those customers, or one that
-- the CRM has still to be told about. Of a held tenant that is one whose type rises; the rest of what
-- it is not told waits for another reason. The first that is found is enough.
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
    FROM leora_pipeline.due_customers(ARRAY[t.tenant_id], CAST(:as_of AS timestamptz)) AS d
    LIMIT 1
  )
  UNION ALL
  (
    SELECT s.customer_id
    FROM leora_pipeline.customer_state AS s
    JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
    WHERE s.tenant_id = t.tenant_id AND s.to_tell AND (
      c."accountType" IS NULL
      OR leora_pipeline.type_rank(s.account_type) > leora_pipeline.type_rank(c."accountType"::text)
      OR NOT EXISTS (
        SELECT FROM leora_pipeline.tenant_hold AS h
        WHERE h.tenant_id = t.tenant_id AND h.released_at IS NULL
      )
    )
    LIMIT 1
  )
  LIMIT 1
) AS waiting

-- name: meet_customers
-- A first state for customers met for the first time, so that there is a row to lock. It remembers
-- what the CRM had before the pipeline wrote anything. In the order of ids, as all locks are taken.
INSERT INTO leora_pipeline.customer_state
  (tenant_id, customer_id, account_type, ever_ordered, to_tell, told_type, told_order_at, as_of)
SELECT
  c."tenantId", c.id, 'PROSPECT', false, false,
  c."accountType"::text, leora_pipeline.usable_date(c."lastOrderDate"), CAST(:as_of AS timestamptz)
FROM "Customer" AS c
WHERE c."tenantId" = :tenant_id AND c.id = ANY (CAST(:customer_ids AS uuid[]))
ORDER BY c.id
ON CONFLICT (tenant_id, customer_id) DO NOTHING

-- name: lock_states
-- Locks the customers' states, waiting for whoever refreshes or applies them now.
SELECT customer_id
FROM leora_pipeline.customer_state
WHERE tenant_id = :tenant_id AND customer_id = ANY (CAST(:customer_ids AS uuid[]))
ORDER BY customer_id
FOR NO KEY UPDATE

-- name: forget_pending
-- Deletes the pending rows that this statement sees of customers who are locked, or gone; what is
-- derived after it has seen all that they speak of. A row that somebody has claimed is theirs.
DELETE FROM leora_pipeline.pending_customer AS p
USING (
  SELECT q.tenant_id, q.pending_id
  FROM leora_pipeline.pending_customer AS q
  WHERE q.tenant_id = :tenant_id AND (
    q.customer_id = ANY (CAST(:locked AS uuid[]))
    OR q.customer_id = ANY (CAST(:customer_ids AS uuid[])) AND NOT EXISTS (
      SELECT FROM "Customer" AS c WHERE c."tenantId" = q.tenant_id AND c.id = q.customer_id
    )
  )
  FOR UPDATE OF q SKIP LOCKED
) AS seen
WHERE p.tenant_id = seen.tenant_id AND p.pending_id = seen.pending_id

-- name: forget_locked
-- Deletes the locked states of customers who are gone.
DELETE FROM leora_pipeline.customer_state AS s
WHERE s.tenant_id = :tenant_id AND s.customer_id = ANY (CAST(:customer_ids AS uuid[]))
  AND NOT EXISTS (
    SELECT FROM "Customer" AS c WHERE c."tenantId" = s.tenant_id AND c.id = s.customer_id
  )

-- name: derive_states
-- Derives the locked states anew and notes whether the CRM has to be told. Where it does not, the
-- CRM's type from now on rests on this last order date. Written as an insert that always finds its
-- row: as an update it would join the states twice, and while their statistics are young the
-- planner takes them for empty and joins by nested loops.
INSERT INTO leora_pipeline.customer_state AS s
  (tenant_id, customer_id, last_order_at, next_order_at, account_type, imported_order_at,
   ever_ordered, to_tell, told_type, told_order_at, as_of)
SELECT
  d.tenant_id, d.customer_id, d.last_order_at, d.next_order_at, d.account_type,
  d.imported_order_at, d.ever_ordered, d.differs,
  CASE WHEN d.differs THEN d.told_type ELSE d.crm_type END,
  CASE WHEN d.differs THEN d.told_order_at ELSE d.last_order_at END,
  CAST(:as_of AS timestamptz)
FROM (
  SELECT
    e.*,
    leora_pipeline.type_differs(e.crm_type, e.account_type)
      OR leora_pipeline.date_differs(
        e.crm_order_at, e.last_order_at, e.ever_ordered, CAST(:write_dates AS boolean)
      ) AS differs
  FROM leora_pipeline.derive_customers(
    ARRAY[CAST(:tenant_id AS uuid)], CAST(:customer_ids AS uuid[]), CAST(:as_of AS timestamptz)
  ) AS e
) AS d
WHERE NOT d.is_current OR d.to_tell IS DISTINCT FROM d.differs OR NOT d.differs AND
  (d.told_type, d.told_order_at) IS DISTINCT FROM (d.crm_type, d.last_order_at)
ON CONFLICT (tenant_id, customer_id) DO UPDATE SET
  last_order_at = EXCLUDED.last_order_at,
  next_order_at = EXCLUDED.next_order_at,
  account_type = EXCLUDED.account_type,
  imported_order_at = EXCLUDED.imported_order_at,
  ever_ordered = EXCLUDED.ever_ordered,
  to_tell = EXCLUDED.to_tell,
  told_type = EXCLUDED.told_type,
  told_order_at = EXCLUDED.told_order_at,
  as_of = EXCLUDED.as_of

-- name: analyze_states
-- Fresh statistics after many states were written; passed over where somebody else is at it.
ANALYZE (SKIP_LOCKED) leora_pipeline.customer_state

-- name: forget_deleted_customers
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

-- name: forget_pending_of_deleted_tenants
-- Deletes what is pending for tenants that are gone.
DELETE FROM leora_pipeline.pending_customer AS p
WHERE NOT EXISTS (SELECT FROM "Tenant" AS t WHERE t.id = p.tenant_id)
