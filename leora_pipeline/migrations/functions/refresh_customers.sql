-- Refresh: the only writer of what customer_state derives. PL/pgSQL, whose statements each see what
-- was committed before them. What reads orders is planned anew each time, since one customer and
-- 20,000 are not read alike.

CREATE OR REPLACE FUNCTION leora_pipeline.ensure_customer_state(
  p_tenant_id uuid, p_customer_ids uuid[], p_as_of timestamptz
) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = 'force_custom_plan' AS $$
BEGIN
  -- The state keeps what the CRM had before the pipeline wrote anything. In the order of ids, as all
  -- locks are taken. A customer that has a state is left out: to find the conflict, the insert would
  -- wait for a session that changes it.
  INSERT INTO leora_pipeline.customer_state
    (tenant_id, customer_id, account_type, ever_ordered, needs_sync, synced_type, synced_order_at, as_of)
  SELECT
    c."tenantId", c.id, 'PROSPECT', false, false,
    c."accountType"::text, leora_pipeline.usable_date(c."lastOrderDate"),
    COALESCE(p_as_of, leora_pipeline.clock())
  FROM "Customer" AS c
  WHERE c."tenantId" = p_tenant_id AND c.id = ANY (p_customer_ids)
    AND NOT EXISTS (
      SELECT FROM leora_pipeline.customer_state AS s
      WHERE s.tenant_id = c."tenantId" AND s.customer_id = c.id
    )
  ORDER BY c.id
  ON CONFLICT (tenant_id, customer_id) DO NOTHING;
END
$$;
COMMENT ON FUNCTION leora_pipeline.ensure_customer_state IS
  'Creates a state for customers that have none, so that there is a row to lock';

CREATE OR REPLACE FUNCTION leora_pipeline.refresh_locked(
  p_tenant_id uuid, p_customer_ids uuid[], p_locked uuid[], p_as_of timestamptz,
  p_write_dates boolean
) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = 'force_custom_plan' AS $$
DECLARE
  v_as_of timestamptz;
  v_reclassification_id bigint;
BEGIN
  -- The pending rows that this statement sees of customers that are locked, or gone. What is derived
  -- after it includes all that they are about. A row that another session has claimed is left to it.
  DELETE FROM leora_pipeline.pending_customer AS p
  USING (
    SELECT q.tenant_id, q.pending_id
    FROM leora_pipeline.pending_customer AS q
    WHERE q.tenant_id = p_tenant_id AND (
      q.customer_id = ANY (p_locked)
      OR q.customer_id = ANY (p_customer_ids) AND NOT EXISTS (
        SELECT FROM "Customer" AS c WHERE c."tenantId" = q.tenant_id AND c.id = q.customer_id
      )
    )
    FOR UPDATE OF q SKIP LOCKED
  ) AS seen
  WHERE p.tenant_id = seen.tenant_id AND p.pending_id = seen.pending_id;

  -- Of the locked ones alone: another session may hold a customer that has come to the tenant since. Where no sync is needed, the CRM's type rests on this last order date from now on.
  -- Written as an insert that always finds its row: as an update it would join the states twice,
  -- and while their statistics are young the planner takes them for empty and joins by nested loops.
  -- The reclassifications of the policy that it derives by are read in the same statement: read before
  -- or after it, a policy changed in between would be taken for order loss.
  v_as_of := COALESCE(p_as_of, leora_pipeline.clock());
  WITH derived AS (
    INSERT INTO leora_pipeline.customer_state AS s
      (tenant_id, customer_id, last_order_at, next_order_at, account_type, imported_order_at,
       ever_ordered, needs_sync, synced_type, synced_order_at, as_of)
    SELECT
      d.tenant_id, d.customer_id, d.last_order_at, d.next_order_at, d.account_type,
      d.imported_order_at, d.ever_ordered, d.differs,
      CASE WHEN d.differs THEN d.synced_type ELSE d.crm_type END,
      CASE WHEN d.differs THEN d.synced_order_at ELSE d.last_order_at END,
      v_as_of
    FROM (
      SELECT
        e.*,
        leora_pipeline.type_differs(e.crm_type, e.account_type)
          OR leora_pipeline.date_differs(
            e.crm_order_at, e.last_order_at, e.ever_ordered, p_write_dates
          ) AS differs
      FROM (
        SELECT * FROM leora_pipeline.derive_customers(ARRAY[p_tenant_id], p_locked, v_as_of)
        OFFSET 0  -- So that what is derived stands once in the plan: half of the time is planning.
      ) AS e
    ) AS d
    WHERE NOT d.is_current OR d.needs_sync IS DISTINCT FROM d.differs OR NOT d.differs AND
      (d.synced_type, d.synced_order_at) IS DISTINCT FROM (d.crm_type, d.last_order_at)
    ON CONFLICT (tenant_id, customer_id) DO UPDATE SET
      last_order_at = EXCLUDED.last_order_at,
      next_order_at = EXCLUDED.next_order_at,
      account_type = EXCLUDED.account_type,
      imported_order_at = EXCLUDED.imported_order_at,
      ever_ordered = EXCLUDED.ever_ordered,
      needs_sync = EXCLUDED.needs_sync,
      synced_type = EXCLUDED.synced_type,
      synced_order_at = EXCLUDED.synced_order_at,
      as_of = EXCLUDED.as_of,
      reclassified_by_policy = s.reclassified_by_policy AND EXCLUDED.needs_sync AND EXCLUDED.account_type = s.account_type
  )
  SELECT max(f.reclassification_id) INTO v_reclassification_id
  FROM leora_pipeline.policy_reclassification AS f WHERE f.tenant_id = p_tenant_id;

  -- Where a policy has taken the date back behind the one that the CRM's type rests on, it rests on
  -- that of the policy: what goes back behind this one too is order loss. Of several
  -- reclassifications, what they make together.
  IF v_reclassification_id IS NOT NULL THEN
    WITH seen AS (
      DELETE FROM leora_pipeline.policy_reclassification AS f
      WHERE f.tenant_id = p_tenant_id AND f.reclassification_id <= v_reclassification_id
        AND f.customer_id = ANY (p_locked)
      RETURNING f.*
    )
    UPDATE leora_pipeline.customer_state AS s
    SET reclassified_by_policy = s.account_type = f.type_after,
        synced_order_at = CASE
          WHEN s.synced_order_at <= f.date_before
            AND s.synced_order_at > COALESCE(f.date_after, '-infinity') THEN f.date_after
          ELSE s.synced_order_at
        END
    FROM (
      SELECT
        customer_id,
        (array_agg(date_before ORDER BY reclassification_id))[1] AS date_before,
        (array_agg(date_after ORDER BY reclassification_id DESC))[1] AS date_after,
        (array_agg(type_after ORDER BY reclassification_id DESC))[1] AS type_after
      FROM seen
      GROUP BY customer_id
    ) AS f
    WHERE s.tenant_id = p_tenant_id AND s.customer_id = f.customer_id AND s.needs_sync;
  END IF;

  -- The states of customers that are gone.
  DELETE FROM leora_pipeline.customer_state AS s
  WHERE s.tenant_id = p_tenant_id AND s.customer_id = ANY (p_locked) AND NOT EXISTS (
    SELECT FROM "Customer" AS c WHERE c."tenantId" = s.tenant_id AND c.id = s.customer_id
  );

  -- A customer that needs no sync does not stay in quarantine.
  UPDATE leora_pipeline.customer_state AS s
  SET error = NULL, failures = 0, quarantined_at = NULL, retry_at = NULL
  WHERE s.tenant_id = p_tenant_id AND s.customer_id = ANY (p_locked)
    AND s.retry_at IS NOT NULL AND NOT s.needs_sync;
END
$$;
COMMENT ON FUNCTION leora_pipeline.refresh_locked IS
  'Derives anew, as of an instant or (null) now, the states that the transaction has locked of the '
  'customers asked for, and deletes what was pending for them';

CREATE OR REPLACE FUNCTION leora_pipeline.refresh_customers(
  p_tenant_id uuid, p_customer_ids uuid[], p_as_of timestamptz, p_write_dates boolean
) RETURNS uuid[] LANGUAGE plpgsql SET plan_cache_mode = 'force_custom_plan' AS $$
DECLARE
  v_locked uuid[];
BEGIN
  PERFORM leora_pipeline.ensure_customer_state(p_tenant_id, p_customer_ids, p_as_of);
  -- Skips those that another session holds: a refresh, or a transaction of the CRM that called the
  -- hook and may stay open for long.
  SELECT COALESCE(array_agg(l.customer_id), '{}') INTO v_locked FROM (
    SELECT s.customer_id
    FROM leora_pipeline.customer_state AS s
    WHERE s.tenant_id = p_tenant_id AND s.customer_id = ANY (p_customer_ids)
    ORDER BY s.customer_id
    FOR NO KEY UPDATE SKIP LOCKED
  ) AS l;
  PERFORM leora_pipeline.refresh_locked(
    p_tenant_id, p_customer_ids, v_locked, p_as_of, p_write_dates
  );
  RETURN v_locked;
END
$$;
COMMENT ON FUNCTION leora_pipeline.refresh_customers IS
  'Derives customers anew under lock, and returns those whose state it could lock';
