-- The hook that an application may call in its own transaction.

CREATE OR REPLACE FUNCTION leora_pipeline.after_order_create(
  p_customer_ids uuid[], p_write_last_order_date boolean DEFAULT true
) RETURNS TABLE (customer_id uuid, outcome text, error text) LANGUAGE plpgsql SECURITY DEFINER
SET lock_timeout = '50ms' SET row_security = off SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
#variable_conflict use_column
DECLARE
  v_tenant_id uuid;
  v_known uuid[];
  v_locked uuid[];
  v_seen uuid[] := '{}';
  v_written uuid[] := '{}';
BEGIN
  -- Only in READ COMMITTED does what is derived see all that was committed before it.
  IF current_setting('transaction_isolation') = 'read committed' THEN
    FOR v_tenant_id, v_known IN
      SELECT c."tenantId", array_agg(c.id) FROM "Customer" AS c
      WHERE c.id = ANY (p_customer_ids) GROUP BY c."tenantId"
    LOOP
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
  END IF;
  RETURN QUERY
  SELECT a.customer_id, CASE
    WHEN a.customer_id = ANY (v_written) THEN 'updated'
    WHEN a.customer_id = ANY (v_seen) THEN 'unchanged'
    WHEN EXISTS (SELECT FROM "Customer" AS c WHERE c.id = a.customer_id) THEN 'deferred'
    ELSE 'unknown'
  END, NULL::text
  FROM (SELECT DISTINCT u.customer_id FROM unnest(p_customer_ids) AS u (customer_id)) AS a;
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
  'failing nothing: updated, unchanged, deferred (to the next run, seconds later), or unknown';

-- It runs as the pipeline's role, so no caller may put other tables in the place of the CRM's. Those
-- are in whatever schema this migration finds them in.
DO $$
DECLARE
  v_schema text;
BEGIN
  SELECT n.nspname INTO v_schema
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.oid = to_regclass('"Customer"');
  EXECUTE 'ALTER FUNCTION leora_pipeline.after_order_create SET search_path = pg_catalog, '
    || COALESCE(quote_ident(v_schema) || ', ', '') || 'pg_temp';
END
$$;
