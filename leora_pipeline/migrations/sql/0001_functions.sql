-- The rule and what belongs to it, once, as functions that the planner inlines: plain SQL, not
-- STRICT, no settings of their own. Inlined, they cost nothing and hide nothing from the planner.

CREATE FUNCTION leora_pipeline.effective_policy(p_tenant_id uuid)
RETURNS SETOF leora_pipeline.tenant_policy LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT
    t.tenant_id,
    COALESCE(p.threshold_unit, 'day'),
    COALESCE(p.active_within, 180),
    COALESCE(p.target_within, 365),
    COALESCE(p.uncounted_statuses, ARRAY['DRAFT', 'CANCELLED']),
    COALESCE(p.healthy_active_min, 60),
    COALESCE(p.healthy_active_max, 75),
    COALESCE(p.healthy_target_min, 5),
    COALESCE(p.healthy_target_max, 15),
    COALESCE(p.healthy_prospect_min, 15),
    COALESCE(p.healthy_prospect_max, 30),
    COALESCE(p.high_churn_below, 50),
    COALESCE(p.poor_retention_above, 20),
    COALESCE(p.future_orders_above, 5),
    COALESCE(p.gate_percent, 20),
    COALESCE(p.gate_customers, 10),
    COALESCE(p.min_customers, 20)
  FROM (VALUES (p_tenant_id)) AS t (tenant_id)
  LEFT JOIN leora_pipeline.tenant_policy AS p ON p.tenant_id = t.tenant_id
$$;
COMMENT ON FUNCTION leora_pipeline.effective_policy IS
  'The tenant''s policy, or the default: here, and nowhere else, stand the default''s values';

CREATE FUNCTION leora_pipeline.threshold(p_as_of timestamptz, p_unit text, p_within integer)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE p_unit
    WHEN 'month' THEN date_trunc('day', p_as_of AT TIME ZONE 'UTC')
                      - make_interval(months => p_within)
    ELSE (p_as_of AT TIME ZONE 'UTC') - make_interval(days => p_within)
  END AT TIME ZONE 'UTC'
$$;
COMMENT ON FUNCTION leora_pipeline.threshold IS
  'The earliest instant within so many days, or calendar months counted from UTC midnight';

CREATE FUNCTION leora_pipeline.tenant_thresholds(p_tenant_ids uuid[], p_as_of timestamptz)
RETURNS TABLE (tenant_id uuid, active_since timestamptz, target_since timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT
    t.tenant_id,
    leora_pipeline.threshold(p_as_of, q.threshold_unit, q.active_within),
    leora_pipeline.threshold(p_as_of, q.threshold_unit, q.target_within)
  FROM unnest(p_tenant_ids) AS t (tenant_id)
  CROSS JOIN LATERAL leora_pipeline.effective_policy(t.tenant_id) AS q
$$;
COMMENT ON FUNCTION leora_pipeline.tenant_thresholds IS
  'For each tenant, since when a last order makes ACTIVE or TARGET, as of an instant';

CREATE FUNCTION leora_pipeline.derive_account_type(
  p_last_order_at timestamptz, p_active_since timestamptz, p_target_since timestamptz
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN p_last_order_at >= p_active_since THEN 'ACTIVE'
    WHEN p_last_order_at >= p_target_since THEN 'TARGET'
    ELSE 'PROSPECT'
  END
$$;
COMMENT ON FUNCTION leora_pipeline.derive_account_type IS 'The rule';

CREATE FUNCTION leora_pipeline.is_pinned(p_type text)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT COALESCE(p_type NOT IN ('ACTIVE', 'TARGET', 'PROSPECT'), false)
$$;
COMMENT ON FUNCTION leora_pipeline.is_pinned IS
  'Whether a type of the CRM is one that the rule does not know (HOLD), so never changes';

CREATE FUNCTION leora_pipeline.type_rank(p_type text)
RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE p_type WHEN 'PROSPECT' THEN 0 WHEN 'TARGET' THEN 1 WHEN 'ACTIVE' THEN 2 END
$$;
COMMENT ON FUNCTION leora_pipeline.type_rank IS 'Orders the types; a lower one is a demotion';

CREATE FUNCTION leora_pipeline.type_differs(p_crm_type text, p_account_type text)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT NOT leora_pipeline.is_pinned(p_crm_type) AND p_crm_type IS DISTINCT FROM p_account_type
$$;
COMMENT ON FUNCTION leora_pipeline.type_differs IS 'Whether the CRM''s type has to be written';

CREATE FUNCTION leora_pipeline.date_differs(
  p_crm_order_at timestamptz, p_last_order_at timestamptz, p_ever_ordered boolean, p_write boolean
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_write AND p_ever_ordered AND p_crm_order_at IS DISTINCT FROM p_last_order_at
$$;
COMMENT ON FUNCTION leora_pipeline.date_differs IS
  'Whether the CRM''s date has to be written; of one who never ordered, it keeps its own';

CREATE FUNCTION leora_pipeline.is_lost(
  p_from_type text, p_to_type text, p_told_order_at timestamptz,
  p_active_since timestamptz, p_target_since timestamptz
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT COALESCE(
    leora_pipeline.type_rank(p_to_type) < leora_pipeline.type_rank(p_from_type)
    AND leora_pipeline.type_rank(p_to_type) < leora_pipeline.type_rank(
      leora_pipeline.derive_account_type(p_told_order_at, p_active_since, p_target_since)
    ), false)
$$;
COMMENT ON FUNCTION leora_pipeline.is_lost IS
  'Whether a demotion is due to a last order date that went back: by age alone, the date that the '
  'CRM''s type rests on would give a higher one. That holds for an as_of of the past too, for which '
  'all younger orders are gone';

CREATE FUNCTION leora_pipeline.change_cause(
  p_is_lost boolean, p_from_type text, p_to_type text, p_told_type text,
  p_told_order_at timestamptz, p_last_order_at timestamptz, p_path text
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN p_is_lost THEN 'order removed'
    WHEN p_from_type IS DISTINCT FROM p_told_type THEN
      CASE WHEN p_told_type IS NULL THEN p_path ELSE 'by hand' END
    WHEN p_last_order_at > p_told_order_at
      OR p_last_order_at IS NOT NULL AND p_told_order_at IS NULL THEN 'order'
    WHEN leora_pipeline.type_rank(p_to_type) < leora_pipeline.type_rank(p_from_type) THEN 'age'
    ELSE p_path
  END
$$;
COMMENT ON FUNCTION leora_pipeline.change_cause IS
  'Why a type changes; the path that found it where nothing else explains it';

CREATE FUNCTION leora_pipeline.type_reason(
  p_last_order_at timestamptz, p_account_type text, p_as_of timestamptz,
  p_unit text, p_active_within integer, p_target_within integer
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN p_last_order_at IS NULL THEN 'Never ordered' ELSE
    'Ordered ' || floor(extract(epoch FROM p_as_of - p_last_order_at) / 86400)::integer
    || ' days ago (' || CASE p_account_type
      WHEN 'ACTIVE' THEN 'within ' || p_active_within
      WHEN 'TARGET' THEN p_active_within || '-' || p_target_within
      ELSE 'over ' || p_target_within
    END || ' ' || p_unit || 's)'
  END
$$;
COMMENT ON FUNCTION leora_pipeline.type_reason IS 'Says why a customer has its type, for people';

CREATE FUNCTION leora_pipeline.usable_date(p_date timestamp)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN p_date BETWEEN '0001-01-01' AND '9999-12-31' THEN p_date AT TIME ZONE 'UTC' END
$$;
COMMENT ON FUNCTION leora_pipeline.usable_date IS
  'A date of the CRM as an instant; none where it is infinite or of a year that clients cannot read';

CREATE FUNCTION leora_pipeline.derive_customers(
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
  told_type text,
  told_order_at timestamptz,
  to_tell boolean,
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
    CASE WHEN s.customer_id IS NULL THEN c."accountType"::text ELSE s.told_type END,
    CASE WHEN s.customer_id IS NULL THEN leora_pipeline.usable_date(c."lastOrderDate")
         ELSE s.told_order_at END,
    COALESCE(s.to_tell, false),
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
