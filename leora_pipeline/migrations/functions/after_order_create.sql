-- The hook that an application may call in its own transaction. It keeps to what its caller sees of
-- the CRM: `after_order_create` runs as the caller, under its row level security, and takes out a
-- ticket for each customer that it sees; `update_ticketed_customers` runs as the schema's owner, for
-- the tickets of this transaction alone. A ticket is checked by a trigger, as whoever inserts it, so
-- that a caller who does without the first function comes no further.

CREATE OR REPLACE FUNCTION leora_pipeline.check_tickets() RETURNS trigger LANGUAGE plpgsql
SET row_security = on AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM "Customer" AS c WHERE c.id = NEW.customer_id) THEN
    RAISE EXCEPTION 'role % sees no such customer', current_user;
  END IF;
  RETURN NEW;
END
$$;
COMMENT ON FUNCTION leora_pipeline.check_tickets IS
  'Trigger of hook_ticket: refuses customers that the one who inserts them does not see';

-- Row by row, before there is a ticket: the statement that inserts it may call the next function
-- itself, which would see a ticket that is checked only at the statement's end.
CREATE OR REPLACE TRIGGER leora_pipeline_check BEFORE INSERT ON leora_pipeline.hook_ticket
FOR EACH ROW EXECUTE FUNCTION leora_pipeline.check_tickets();

CREATE OR REPLACE FUNCTION leora_pipeline.update_ticketed_customers(p_write_last_order_date boolean)
RETURNS TABLE (customer_id uuid, outcome text) LANGUAGE plpgsql SECURITY DEFINER
SET lock_timeout = '50ms' SET row_security = off SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
#variable_conflict use_column
DECLARE
  v_limit interval := current_setting('statement_timeout');
  v_ticketed uuid[];
  v_tenant_id uuid;
  v_known uuid[];
  v_locked uuid[];
  v_seen uuid[] := '{}';
  v_written uuid[] := '{}';
BEGIN
  PERFORM leora_pipeline.leave_time();
  WITH taken AS (
    DELETE FROM leora_pipeline.hook_ticket AS k
    WHERE k.transaction_id = pg_current_xact_id()
    RETURNING k.customer_id
  )
  SELECT array_agg(customer_id) INTO v_ticketed FROM taken;
  FOR v_tenant_id, v_known IN
    SELECT k.tenant_id, array_agg(k.id)
    FROM (
      SELECT
        c."tenantId" AS tenant_id,
        c.id,
        (row_number() OVER (PARTITION BY c."tenantId" ORDER BY c.id) - 1) / 500 AS part
      FROM "Customer" AS c
      WHERE c.id = ANY (v_ticketed)
    ) AS k
    GROUP BY k.tenant_id, k.part
    ORDER BY k.tenant_id, k.part
  LOOP
    -- What the session's statement timeout would end is deferred: the CRM needs the other half of it.
    EXIT WHEN v_limit > interval '0'
      AND clock_timestamp() > statement_timestamp() + v_limit / 2;
    -- Waits for no lock, since this may be the CRM's own transaction, and creates no state: other
    -- sessions that create it too would wait for this one to end.
    SELECT array_agg(l.customer_id) INTO v_locked FROM (
      SELECT s.customer_id
      FROM leora_pipeline.customer_state AS s
      JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
      WHERE s.tenant_id = v_tenant_id AND s.customer_id = ANY (v_known)
      ORDER BY s.customer_id
      FOR NO KEY UPDATE OF c, s SKIP LOCKED
    ) AS l;
    CONTINUE WHEN v_locked IS NULL;
    PERFORM leora_pipeline.refresh_locked(
      v_tenant_id, v_locked, v_locked, NULL, p_write_last_order_date
    );
    -- Upward alone, as of a held tenant: a demotion is for paths that can ask the gate.
    SELECT
      v_seen || COALESCE(array_agg(w.customer_id) FILTER (WHERE NOT w.is_withheld), '{}'),
      v_written || COALESCE(array_agg(w.customer_id) FILTER (WHERE w.is_written), '{}')
    INTO v_seen, v_written
    FROM leora_pipeline.write_customers(
      v_tenant_id, v_locked, NULL, p_write_last_order_date, true, 'after_order_create', 'hook'
    ) AS w;
  END LOOP;
  RETURN QUERY
  SELECT k.customer_id, CASE
    WHEN k.customer_id = ANY (v_written) THEN 'updated'
    WHEN k.customer_id = ANY (v_seen) THEN 'unchanged'
    ELSE 'deferred'
  END
  FROM unnest(v_ticketed) AS k (customer_id);
END
$$;
COMMENT ON FUNCTION leora_pipeline.update_ticketed_customers IS
  'Brings the customers up to date that this transaction has tickets for: updated, unchanged or deferred';

CREATE OR REPLACE FUNCTION leora_pipeline.after_order_create(
  p_customer_ids uuid[], p_write_last_order_date boolean DEFAULT true
) RETURNS TABLE (customer_id uuid, outcome text, error text) LANGUAGE plpgsql
SET lock_timeout = '50ms' SET row_security = on AS $$
#variable_conflict use_column
DECLARE
  v_visible uuid[];
BEGIN
  PERFORM leora_pipeline.leave_time();
  IF cardinality(p_customer_ids) > 5000 THEN
    RAISE EXCEPTION 'more than 5000 customers in one call';
  END IF;
  SELECT COALESCE(array_agg(c.id), '{}') INTO v_visible
  FROM "Customer" AS c
  WHERE c.id = ANY (p_customer_ids);
  -- Only in READ COMMITTED does what is derived see all that was committed before it.
  IF current_setting('transaction_isolation') = 'read committed' THEN
    INSERT INTO leora_pipeline.hook_ticket (customer_id)
    SELECT v.customer_id FROM unnest(v_visible) AS v (customer_id);
    RETURN QUERY
    SELECT u.customer_id, u.outcome, NULL::text
    FROM leora_pipeline.update_ticketed_customers(p_write_last_order_date) AS u;
  ELSE
    RETURN QUERY
    SELECT v.customer_id, 'deferred', NULL::text FROM unnest(v_visible) AS v (customer_id);
  END IF;
  RETURN QUERY
  SELECT DISTINCT a.customer_id, 'unknown', NULL::text
  FROM unnest(p_customer_ids) AS a (customer_id)
  WHERE a.customer_id = ANY (v_visible) IS NOT TRUE;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: the account types are deferred to the next run: ' || SQLERRM;
  RETURN QUERY
  SELECT DISTINCT u.customer_id, 'deferred', split_part(SQLERRM, E'\n', 1)
  FROM unnest(p_customer_ids) AS u (customer_id);
END
$$;
COMMENT ON FUNCTION leora_pipeline.after_order_create IS
  'Brings customers up to date in the transaction that calls it, waiting for no lock and '
  'failing nothing: updated, unchanged, deferred (to the next run, seconds later), or unknown, which '
  'is also what the caller does not see';
