-- Why a type changes, and what a hold stops: functions over values, inlined like the rule.

CREATE OR REPLACE FUNCTION leora_pipeline.is_order_loss(
  p_from_type text, p_to_type text, p_synced_order_at timestamptz, p_last_order_at timestamptz,
  p_active_since timestamptz, p_target_since timestamptz
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  -- The first comparison is as an index of customer_state has it: it finds the few.
  SELECT p_synced_order_at > COALESCE(p_last_order_at, '-infinity')
    AND leora_pipeline.type_rank(p_to_type) < leora_pipeline.type_rank(p_from_type)
    AND leora_pipeline.type_rank(p_to_type) < leora_pipeline.type_rank(
      leora_pipeline.derive_account_type(p_synced_order_at, p_active_since, p_target_since)
    )
$$;
COMMENT ON FUNCTION leora_pipeline.is_order_loss IS
  'Whether (null: no) a demotion is due to a last order date that went back: by age alone, the date that the '
  'CRM''s type rests on would give a higher one. That holds for an as_of of the past too, for which '
  'all younger orders are gone';

CREATE OR REPLACE FUNCTION leora_pipeline.change_cause(
  p_is_order_loss boolean, p_reclassified_by_policy boolean, p_from_type text, p_to_type text, p_synced_type text,
  p_synced_order_at timestamptz, p_last_order_at timestamptz, p_fallback_cause text
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN p_is_order_loss THEN 'order removed'
    WHEN p_from_type IS DISTINCT FROM p_synced_type THEN
      CASE WHEN p_synced_type IS NULL THEN p_fallback_cause ELSE 'by hand' END
    WHEN p_reclassified_by_policy THEN 'policy'
    -- Before the orders: at a first look a younger one may be there, and not young enough.
    WHEN leora_pipeline.type_rank(p_to_type) < leora_pipeline.type_rank(p_from_type) THEN 'age'
    WHEN p_last_order_at > p_synced_order_at
      OR p_last_order_at IS NOT NULL AND p_synced_order_at IS NULL THEN 'order'
    ELSE p_fallback_cause
  END
$$;
COMMENT ON FUNCTION leora_pipeline.change_cause IS
  'Why a type changes; the path that found it where nothing else explains it';

CREATE OR REPLACE FUNCTION leora_pipeline.type_reason(
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

CREATE OR REPLACE FUNCTION leora_pipeline.is_type_withheld(
  p_is_held boolean, p_crm_type text, p_account_type text
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_is_held AND COALESCE(
    leora_pipeline.type_rank(p_account_type) < leora_pipeline.type_rank(p_crm_type), false
  )
$$;
COMMENT ON FUNCTION leora_pipeline.is_type_withheld IS 'Whether a hold stops a lower type';

CREATE OR REPLACE FUNCTION leora_pipeline.is_date_withheld(
  p_is_held boolean, p_crm_order_at timestamptz, p_last_order_at timestamptz
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_is_held AND p_crm_order_at IS NOT NULL
    AND COALESCE(p_last_order_at < p_crm_order_at, true)
$$;
COMMENT ON FUNCTION leora_pipeline.is_date_withheld IS 'Whether a hold stops a date that goes back';
