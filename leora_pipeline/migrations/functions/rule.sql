-- The rule and what belongs to it, once. Plain SQL, not STRICT, no settings of their own: the planner
-- inlines such functions, so that they cost nothing and hide nothing from it. What does not belong
-- here: anything that reads the CRM's tables.

CREATE OR REPLACE FUNCTION leora_pipeline.clock() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
  SELECT date_trunc('milliseconds', clock_timestamp() + interval '999 microseconds')
$$;
COMMENT ON FUNCTION leora_pipeline.clock IS
  'The one clock, rounded up to the millisecond: the CRM stores no finer instant, and one rounded '
  'down could lie before an order that is already there';

CREATE OR REPLACE FUNCTION leora_pipeline.usable_date(p_date timestamp)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN p_date BETWEEN '0001-01-01' AND '9999-12-31' THEN p_date AT TIME ZONE 'UTC' END
$$;
COMMENT ON FUNCTION leora_pipeline.usable_date IS
  'A date of the CRM as an instant; none where it is infinite or of a year that clients cannot read';

CREATE OR REPLACE FUNCTION leora_pipeline.effective_policy(p_tenant_id uuid)
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

CREATE OR REPLACE FUNCTION leora_pipeline.threshold(p_as_of timestamptz, p_unit text, p_within integer)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE p_unit
    WHEN 'month' THEN date_trunc('day', p_as_of AT TIME ZONE 'UTC')
                      - make_interval(months => p_within)
    ELSE (p_as_of AT TIME ZONE 'UTC') - make_interval(days => p_within)
  END AT TIME ZONE 'UTC'
$$;
COMMENT ON FUNCTION leora_pipeline.threshold IS
  'The earliest instant within so many days, or calendar months counted from UTC midnight';

CREATE OR REPLACE FUNCTION leora_pipeline.tenant_thresholds(p_tenant_ids uuid[], p_as_of timestamptz)
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

CREATE OR REPLACE FUNCTION leora_pipeline.derive_account_type(
  p_last_order_at timestamptz, p_active_since timestamptz, p_target_since timestamptz
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN p_last_order_at >= p_active_since THEN 'ACTIVE'
    WHEN p_last_order_at >= p_target_since THEN 'TARGET'
    ELSE 'PROSPECT'
  END
$$;
COMMENT ON FUNCTION leora_pipeline.derive_account_type IS 'The rule';

CREATE OR REPLACE FUNCTION leora_pipeline.is_pinned(p_type text)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT COALESCE(p_type NOT IN ('ACTIVE', 'TARGET', 'PROSPECT'), false)
$$;
COMMENT ON FUNCTION leora_pipeline.is_pinned IS
  'Whether a type of the CRM is one that the rule does not know (HOLD), so never changes';

CREATE OR REPLACE FUNCTION leora_pipeline.type_rank(p_type text)
RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE p_type WHEN 'PROSPECT' THEN 0 WHEN 'TARGET' THEN 1 WHEN 'ACTIVE' THEN 2 END
$$;
COMMENT ON FUNCTION leora_pipeline.type_rank IS 'Orders the types; a lower one is a demotion';

CREATE OR REPLACE FUNCTION leora_pipeline.type_differs(p_crm_type text, p_account_type text)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT NOT leora_pipeline.is_pinned(p_crm_type) AND p_crm_type IS DISTINCT FROM p_account_type
$$;
COMMENT ON FUNCTION leora_pipeline.type_differs IS 'Whether the CRM''s type has to be written';

CREATE OR REPLACE FUNCTION leora_pipeline.date_differs(
  p_crm_order_at timestamptz, p_last_order_at timestamptz, p_ever_ordered boolean, p_write boolean
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_write AND p_ever_ordered AND p_crm_order_at IS DISTINCT FROM p_last_order_at
$$;
COMMENT ON FUNCTION leora_pipeline.date_differs IS
  'Whether the CRM''s date has to be written; of one that never ordered, it keeps its own';
