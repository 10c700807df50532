-- The derivation: what the orders say of customers. Inlined like the rule, and the only place that
-- reads "Order" for it.

CREATE OR REPLACE FUNCTION leora_pipeline.derive_customers(
  p_tenant_ids uuid[], p_customer_ids uuid[], p_as_of timestamptz
) RETURNS TABLE (
  tenant_id uuid,
  customer_id uuid,
  crm_type text,
  crm_order_at timestamptz,
  last_order_at timestamptz,
  next_order_at timestamptz,
  account_type text,
  imported_order_at timestamptz,
  ever_ordered boolean,
  synced_type text,
  synced_order_at timestamptz,
  needs_sync boolean,
  is_current boolean,
  active_since timestamptz,
  target_since timestamptz
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT
    c."tenantId",
    c.id,
    c."accountType"::text,
    c."lastOrderDate" AT TIME ZONE 'UTC',
    e.last_order_at,
    e.next_order_at,
    leora_pipeline.derive_account_type(e.last_order_at, p.active_since, p.target_since),
    e.imported_order_at,
    e.ever_ordered,
    CASE WHEN s.customer_id IS NULL THEN c."accountType"::text ELSE s.synced_type END,
    CASE WHEN s.customer_id IS NULL THEN leora_pipeline.usable_date(c."lastOrderDate")
         ELSE s.synced_order_at END,
    COALESCE(s.needs_sync, false),
    s.customer_id IS NOT NULL
      AND (s.last_order_at, s.next_order_at, s.account_type, s.imported_order_at, s.ever_ordered)
      IS NOT DISTINCT FROM (
        e.last_order_at, e.next_order_at,
        leora_pipeline.derive_account_type(e.last_order_at, p.active_since, p.target_since),
        e.imported_order_at, e.ever_ordered
      ),
    p.active_since,
    p.target_since
  FROM leora_pipeline.tenant_thresholds(p_tenant_ids, p_as_of) AS p
  JOIN "Customer" AS c ON c."tenantId" = p.tenant_id
  LEFT JOIN leora_pipeline.customer_state AS s
    ON s.tenant_id = c."tenantId" AND s.customer_id = c.id
  LEFT JOIN (
    SELECT
      o."tenantId",
      o."customerId",
      max(o."orderedAt") FILTER (WHERE o."orderedAt" <= p_as_of AT TIME ZONE 'UTC')
        AT TIME ZONE 'UTC' AS counted_order_at,
      min(o."orderedAt") FILTER (WHERE o."orderedAt" > p_as_of AT TIME ZONE 'UTC')
        AT TIME ZONE 'UTC' AS next_order_at
    FROM "Order" AS o
    JOIN (
      SELECT t.tenant_id, q.uncounted_statuses
      FROM unnest(p_tenant_ids) AS t (tenant_id)
      CROSS JOIN LATERAL leora_pipeline.effective_policy(t.tenant_id) AS q
    ) AS u ON u.tenant_id = o."tenantId"
    WHERE o.status::text <> ALL (u.uncounted_statuses)
      AND o."orderedAt" BETWEEN '0001-01-01' AND '9999-12-31'
      AND (p_customer_ids IS NULL OR o."customerId" = ANY (p_customer_ids))
    GROUP BY o."tenantId", o."customerId"
  ) AS o ON o."tenantId" = c."tenantId" AND o."customerId" = c.id
  CROSS JOIN LATERAL (
    SELECT
      o.counted_order_at IS NOT NULL OR COALESCE(s.ever_ordered, false) AS ever_ordered,
      CASE WHEN o.counted_order_at IS NOT NULL OR COALESCE(s.ever_ordered, false)
           THEN s.imported_order_at ELSE leora_pipeline.usable_date(c."lastOrderDate")
      END AS imported_order_at
  ) AS i
  CROSS JOIN LATERAL (
    SELECT
      i.ever_ordered,
      i.imported_order_at,
      COALESCE(o.counted_order_at, CASE WHEN i.imported_order_at <= p_as_of
                                        THEN i.imported_order_at END) AS last_order_at,
      LEAST(o.next_order_at, CASE WHEN o.counted_order_at IS NULL AND i.imported_order_at > p_as_of
                                  THEN i.imported_order_at END) AS next_order_at
  ) AS e
  WHERE p_customer_ids IS NULL OR c.id = ANY (p_customer_ids)
$$;
COMMENT ON FUNCTION leora_pipeline.derive_customers IS
  'What the orders say of the tenants'' customers (all, or those named) as of an instant, beside '
  'what the CRM has and what the state says: every path derives through this';
