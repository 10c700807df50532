-- name: policy
-- The policy of a tenant; the default for none.
SELECT * FROM leora_pipeline.effective_policy(CAST(:tenant_id AS uuid))

-- name: changes
-- The latest changes of a tenant's policy, newest first.
SELECT changed_at, changed_by, before, after
FROM leora_pipeline.policy_change
WHERE tenant_id = :tenant_id
ORDER BY changed_at DESC
LIMIT :limit

-- name: insert_policy
-- Gives a tenant a policy of its own; the one before has been deleted.
INSERT INTO leora_pipeline.tenant_policy
SELECT *
FROM jsonb_populate_record(
  NULL::leora_pipeline.tenant_policy,
  CAST(:policy AS jsonb) || jsonb_build_object('tenant_id', CAST(:tenant_id AS uuid))
)

-- name: delete_policy
-- Lets a tenant follow the default again.
DELETE FROM leora_pipeline.tenant_policy WHERE tenant_id = :tenant_id

-- name: record_change
-- Records who changed what. One change comes after the other, even within a millisecond.
INSERT INTO leora_pipeline.policy_change (tenant_id, changed_at, changed_by, before, after)
SELECT
  :tenant_id,
  GREATEST(leora_pipeline.clock(), max(p.changed_at) + interval '1 millisecond'),
  CAST(:changed_by AS text) || ' as ' || current_user,
  CAST(:before AS jsonb),
  CAST(:after AS jsonb)
FROM leora_pipeline.policy_change AS p
WHERE p.tenant_id = :tenant_id

-- name: reclassify_by_thresholds
-- Records the customers that changed thresholds move, given those of before, and counts them. Index
-- ranges of the states find those whose date now gives another type.
WITH reclassified AS (
  INSERT INTO leora_pipeline.policy_reclassification
    (tenant_id, customer_id, type_before, type_after, date_before, date_after)
  SELECT DISTINCT
    s.tenant_id, s.customer_id, b.account_type, a.account_type, s.last_order_at, s.last_order_at
  FROM leora_pipeline.tenant_thresholds(
    ARRAY[CAST(:tenant_id AS uuid)], CAST(:as_of AS timestamptz)
  ) AS t
  CROSS JOIN LATERAL (
-- include: core.customers.actionable.due_customers
  ) AS d
  JOIN leora_pipeline.customer_state AS s
    ON s.tenant_id = t.tenant_id AND s.customer_id = d.customer_id
  JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
  CROSS JOIN LATERAL (
    SELECT leora_pipeline.derive_account_type(
      s.last_order_at,
      leora_pipeline.threshold(CAST(:as_of AS timestamptz), :threshold_unit, :active_within),
      leora_pipeline.threshold(CAST(:as_of AS timestamptz), :threshold_unit, :target_within)
    ) AS account_type
  ) AS b
  CROSS JOIN LATERAL (
    SELECT leora_pipeline.derive_account_type(
      s.last_order_at, t.active_since, t.target_since
    ) AS account_type
  ) AS a
  WHERE a.account_type <> b.account_type AND NOT leora_pipeline.is_pinned(c."accountType"::text)
  RETURNING type_before, type_after
)
SELECT type_before, type_after, count(*) AS customers
FROM reclassified
GROUP BY type_before, type_after
ORDER BY leora_pipeline.type_rank(type_before) DESC, leora_pipeline.type_rank(type_after) DESC

-- name: create_policy_before
-- Room, until the transaction ends, for what the rule gave before a policy is changed.
CREATE TEMPORARY TABLE policy_before (
  tenant_id uuid NOT NULL,
  customer_id uuid NOT NULL,
  account_type text NOT NULL,
  last_order_at timestamptz,
  PRIMARY KEY (tenant_id, customer_id)
) ON COMMIT DROP

-- name: remember_before
-- What the rule gives a tenant's customers, read off their orders.
INSERT INTO policy_before (tenant_id, customer_id, account_type, last_order_at)
SELECT d.tenant_id, d.customer_id, d.account_type, d.last_order_at
FROM leora_pipeline.derive_customers(
  ARRAY[CAST(:tenant_id AS uuid)], NULL, CAST(:as_of AS timestamptz)
) AS d

-- name: reclassify_by_statuses
-- Records the customers to which changed statuses, and thresholds with them, give another date or
-- type than before, and counts those that move. Orders that were missing before are missing in both.
WITH reclassified AS (
  INSERT INTO leora_pipeline.policy_reclassification
    (tenant_id, customer_id, type_before, type_after, date_before, date_after)
  SELECT
    d.tenant_id, d.customer_id, b.account_type, d.account_type, b.last_order_at, d.last_order_at
  FROM leora_pipeline.derive_customers(
    ARRAY[CAST(:tenant_id AS uuid)], NULL, CAST(:as_of AS timestamptz)
  ) AS d
  JOIN policy_before AS b ON b.tenant_id = d.tenant_id AND b.customer_id = d.customer_id
  JOIN leora_pipeline.customer_state AS s
    ON s.tenant_id = d.tenant_id AND s.customer_id = d.customer_id
  WHERE (d.account_type, d.last_order_at) IS DISTINCT FROM (b.account_type, b.last_order_at)
    AND NOT leora_pipeline.is_pinned(d.crm_type)
  RETURNING type_before, type_after
)
SELECT type_before, type_after, count(*) AS customers
FROM reclassified
WHERE type_before <> type_after
GROUP BY type_before, type_after
ORDER BY leora_pipeline.type_rank(type_before) DESC, leora_pipeline.type_rank(type_after) DESC

-- name: enqueue_reclassified
-- Enqueues, as a change of the CRM would, every customer that waits to be reclassified: those too
-- that the next change of the policy has brought back.
INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
SELECT DISTINCT tenant_id, customer_id
FROM leora_pipeline.policy_reclassification
WHERE tenant_id = :tenant_id

-- name: enqueue_recounted
-- Enqueues every customer with an order of a status that counts otherwise than before.
INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
SELECT DISTINCT o."tenantId", o."customerId"
FROM "Order" AS o
WHERE o."tenantId" = :tenant_id AND o.status::text = ANY (CAST(:statuses AS text[]))
