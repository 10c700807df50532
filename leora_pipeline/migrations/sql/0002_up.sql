-- Change capture: an append-only table of customers to look at, filled by the triggers of
-- triggers.sql. Several rows a customer, no unique key, no foreign key: whoever writes to the
-- CRM adds rows and meets nobody.

CREATE TABLE leora_pipeline.pending_customer (
  tenant_id uuid NOT NULL,
  pending_id bigint GENERATED ALWAYS AS IDENTITY,
  customer_id uuid NOT NULL,
  noted_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, pending_id)
) WITH (
  -- A queue lives on being vacuumed: rows die as fast as they come.
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 10000,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 1000
);
COMMENT ON TABLE leora_pipeline.pending_customer IS
  'Customers whom a change of the CRM concerns, until a refresh has looked at them';

CREATE INDEX customer_state_by_date
  ON leora_pipeline.customer_state (tenant_id, account_type, last_order_at);
CREATE INDEX customer_state_next_order ON leora_pipeline.customer_state (tenant_id, next_order_at)
  WHERE next_order_at IS NOT NULL;

ALTER TABLE leora_pipeline.tenant_run DROP CONSTRAINT tenant_run_mode_check;
ALTER TABLE leora_pipeline.tenant_run ADD CONSTRAINT tenant_run_mode_check
  CHECK (mode IN ('full', 'incremental', 'partial'));

-- What the triggers call. Their columns are named in strings that PostgreSQL resolves when it runs
-- them, so that the CRM's migrations are free. They run as the pipeline's role, with a search path
-- and a lock timeout of their own, and turn every error into a warning: a change that is not noted
-- is found by the nightly run, while one that fails is the CRM's loss. One statement notes one set.

CREATE FUNCTION leora_pipeline.note_inserted_orders() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
  SELECT DISTINCT "tenantId", "customerId" FROM after_change;
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: inserted orders are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;

CREATE FUNCTION leora_pipeline.note_updated_orders() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  -- What differs between before and after, whichever way: an order that moved concerns both of its
  -- customers, and one that got another id is a different one.
  INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
  SELECT DISTINCT "tenantId", "customerId" FROM (
    (SELECT id, "tenantId", "customerId", status, "orderedAt" FROM before_change
     EXCEPT ALL
     SELECT id, "tenantId", "customerId", status, "orderedAt" FROM after_change)
    UNION ALL
    (SELECT id, "tenantId", "customerId", status, "orderedAt" FROM after_change
     EXCEPT ALL
     SELECT id, "tenantId", "customerId", status, "orderedAt" FROM before_change)
  ) AS changed;
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: updated orders are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;

CREATE FUNCTION leora_pipeline.note_deleted_orders() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
  SELECT DISTINCT "tenantId", "customerId" FROM before_change;
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: deleted orders are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;

CREATE FUNCTION leora_pipeline.note_inserted_customers() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
  SELECT "tenantId", id FROM after_change;
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: inserted customers are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;

CREATE FUNCTION leora_pipeline.note_updated_customers() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  -- The pipeline's own writes say so, and need not be looked at.
  IF current_setting('leora_pipeline.is_applying', true) = 'on' THEN
    RETURN NULL;
  END IF;
  INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
  SELECT DISTINCT "tenantId", id FROM (
    (SELECT id, "tenantId", "accountType", "lastOrderDate" FROM before_change
     EXCEPT ALL
     SELECT id, "tenantId", "accountType", "lastOrderDate" FROM after_change)
    UNION ALL
    (SELECT id, "tenantId", "accountType", "lastOrderDate" FROM after_change
     EXCEPT ALL
     SELECT id, "tenantId", "accountType", "lastOrderDate" FROM before_change)
  ) AS changed;
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: updated customers are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;

CREATE FUNCTION leora_pipeline.due_customers(p_tenant_ids uuid[], p_as_of timestamptz)
RETURNS TABLE (tenant_id uuid, customer_id uuid) LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT p.tenant_id, s.customer_id
  FROM leora_pipeline.tenant_thresholds(p_tenant_ids, p_as_of) AS p
  CROSS JOIN LATERAL (
    SELECT a.customer_id FROM leora_pipeline.customer_state AS a
    WHERE a.tenant_id = p.tenant_id AND a.account_type = 'ACTIVE'
      AND a.last_order_at < p.active_since
    UNION ALL
    SELECT b.customer_id FROM leora_pipeline.customer_state AS b
    WHERE b.tenant_id = p.tenant_id AND b.account_type = 'TARGET'
      AND b.last_order_at < p.target_since
    UNION ALL
    SELECT c.customer_id FROM leora_pipeline.customer_state AS c
    WHERE c.tenant_id = p.tenant_id AND c.account_type = 'TARGET'
      AND c.last_order_at >= p.active_since
    UNION ALL
    SELECT d.customer_id FROM leora_pipeline.customer_state AS d
    WHERE d.tenant_id = p.tenant_id AND d.account_type = 'PROSPECT'
      AND d.last_order_at >= p.target_since
    UNION ALL
    SELECT e.customer_id FROM leora_pipeline.customer_state AS e
    WHERE e.tenant_id = p.tenant_id AND e.next_order_at <= p_as_of
  ) AS s
$$;
COMMENT ON FUNCTION leora_pipeline.due_customers IS
  'Customers whose state the time alone has outdated: a threshold passed (or was changed), or a '
  'future order came due; found by index ranges';
