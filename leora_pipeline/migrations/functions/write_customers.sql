-- Write-back: the only writer of the CRM's "Customer". What goes by the keys of the locked rows alone
-- keeps its plan.

CREATE OR REPLACE FUNCTION leora_pipeline.order_loss_customers(
  p_tenant_id uuid, p_customer_ids uuid[], p_as_of timestamptz
) RETURNS uuid[] LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN ARRAY(
    SELECT s.customer_id
    FROM leora_pipeline.tenant_thresholds(ARRAY[p_tenant_id], p_as_of) AS q
    CROSS JOIN leora_pipeline.customer_state AS s
    JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
    WHERE s.tenant_id = p_tenant_id AND s.customer_id = ANY (p_customer_ids)
      AND leora_pipeline.is_order_loss(
        c."accountType"::text, s.account_type, s.synced_order_at, s.last_order_at,
        q.active_since, q.target_since
      )
  );
END
$$;
COMMENT ON FUNCTION leora_pipeline.order_loss_customers IS
  'Which of some customers would be demoted in the CRM by order loss';

CREATE OR REPLACE FUNCTION leora_pipeline.write_customers(
  p_tenant_id uuid, p_customer_ids uuid[], p_as_of timestamptz, p_write_dates boolean,
  p_held boolean, p_run_id text, p_fallback_cause text
) RETURNS TABLE (
  customer_id uuid, is_written boolean, is_moved boolean, is_withheld boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  v_now timestamptz := leora_pipeline.clock();
BEGIN
  -- Marks for the trigger of "Customer" that this write is the pipeline's own, and no more than this
  -- one: the transaction may be the CRM's.
  INSERT INTO leora_pipeline.own_write (transaction_id, trigger_depth)
  VALUES (pg_current_xact_id(), pg_trigger_depth());
  -- A held tenant's downward moves stay unsynced: a lower type, and a date that goes back. The enum is computed before the UPDATE, as distributed tables ask for.
  RETURN QUERY
  WITH differing AS (
    SELECT
      c.id,
      c."accountType" AS crm_type,
      c."accountType"::text AS from_type,
      c."lastOrderDate" AS crm_date,
      s.account_type,
      s.last_order_at,
      s.synced_type,
      s.synced_order_at,
      s.as_of,
      leora_pipeline.type_differs(c."accountType"::text, s.account_type) AS type_differs,
      leora_pipeline.date_differs(
        c."lastOrderDate" AT TIME ZONE 'UTC', s.last_order_at, s.ever_ordered, p_write_dates
      ) AS date_differs,
      leora_pipeline.is_type_withheld(
        p_held, c."accountType"::text, s.account_type
      ) AS is_held_type,
      leora_pipeline.is_date_withheld(
        p_held, c."lastOrderDate" AT TIME ZONE 'UTC', s.last_order_at
      ) AS is_held_date,
      s.reclassified_by_policy,
      leora_pipeline.is_order_loss(
        c."accountType"::text, s.account_type, s.synced_order_at, s.last_order_at,
        q.active_since, q.target_since
      ) AS is_order_loss
    FROM leora_pipeline.tenant_thresholds(ARRAY[p_tenant_id], COALESCE(p_as_of, v_now)) AS q
    CROSS JOIN leora_pipeline.customer_state AS s
    JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
    WHERE s.tenant_id = p_tenant_id AND s.customer_id = ANY (p_customer_ids)
  ),
  moves AS MATERIALIZED (
    SELECT
      d.*,
      d.type_differs AND NOT d.is_held_type AS writes_type,
      d.date_differs AND NOT d.is_held_date AS writes_date,
      d.type_differs AND d.is_held_type OR d.date_differs AND d.is_held_date AS withheld,
      d.type_differs AND NOT d.is_held_type
        OR NOT (d.type_differs AND d.is_held_type OR d.date_differs AND d.is_held_date) AS is_synced,
      CASE WHEN d.type_differs AND NOT d.is_held_type THEN d.account_type::"AccountType"
           ELSE d.crm_type END AS new_type,
      CASE WHEN d.date_differs AND NOT d.is_held_date THEN d.last_order_at AT TIME ZONE 'UTC'
           ELSE d.crm_date END AS new_date
    FROM differing AS d
  ),
  written AS (
    UPDATE "Customer" AS c
    SET "accountType" = m.new_type, "lastOrderDate" = m.new_date,
        "updatedAt" = v_now AT TIME ZONE 'UTC'
    FROM moves AS m
    WHERE c."tenantId" = p_tenant_id AND c.id = m.id AND (m.writes_type OR m.writes_date)
  ),
  logged AS (
    INSERT INTO leora_pipeline.account_type_transition
      (tenant_id, customer_id, from_type, to_type, last_order_at, as_of, cause, run_id, recorded_at)
    SELECT
      p_tenant_id, m.id, m.from_type, m.account_type, m.last_order_at, m.as_of,
      leora_pipeline.change_cause(
        m.is_order_loss, m.reclassified_by_policy, m.from_type, m.account_type, m.synced_type, m.synced_order_at,
        m.last_order_at, p_fallback_cause
      ),
      p_run_id, v_now
    FROM moves AS m
    WHERE m.writes_type
    ORDER BY m.id
  ),
  synced AS (
    UPDATE leora_pipeline.customer_state AS s
    SET needs_sync = m.withheld,
        synced_type = CASE WHEN m.is_synced THEN m.new_type::text ELSE s.synced_type END,
        synced_order_at = CASE WHEN m.withheld THEN s.synced_order_at ELSE m.last_order_at END,
        reclassified_by_policy = s.reclassified_by_policy AND NOT m.is_synced,
        error = NULL, failures = 0, quarantined_at = NULL, retry_at = NULL
    FROM moves AS m
    WHERE s.tenant_id = p_tenant_id AND s.customer_id = m.id
      AND (m.is_synced OR s.retry_at IS NOT NULL)
  )
  SELECT m.id, m.writes_type OR m.writes_date, m.writes_type, m.withheld
  FROM moves AS m;
  DELETE FROM leora_pipeline.own_write AS o
  WHERE o.transaction_id = pg_current_xact_id() AND o.trigger_depth = pg_trigger_depth();
END
$$;
COMMENT ON FUNCTION leora_pipeline.write_customers IS
  'Writes customers that the transaction has locked, with their states, where the CRM differs from '
  'the state; logs each change of type, and records what is synced';
