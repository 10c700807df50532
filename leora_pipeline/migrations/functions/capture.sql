-- Change capture: what the triggers of triggers.sql call. Their columns are named in strings that
-- PostgreSQL resolves when it runs them, so that the CRM's migrations are free. They run as the
-- pipeline's role, with a search path and a lock timeout of their own, and turn every error into a
-- warning: the nightly run finds a change that was not captured, while a statement that
-- fails is the CRM's loss. One function a table, so that to replace or to drop one locks one table of the CRM's.

CREATE OR REPLACE FUNCTION leora_pipeline.leave_time() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_limit interval := current_setting('statement_timeout');
  v_wait interval;
BEGIN
  IF v_limit > interval '0' THEN
    v_wait := (statement_timestamp() + v_limit - clock_timestamp()) / 2;
    IF v_wait < current_setting('lock_timeout')::interval THEN
      PERFORM set_config(
        'lock_timeout',
        greatest(1, floor(1000 * extract(epoch FROM v_wait)))::integer::text, true
      );
    END IF;
  END IF;
END
$$;
COMMENT ON FUNCTION leora_pipeline.leave_time IS
  'Where the CRM''s session has a statement timeout, lets a trigger wait for half of what is left of '
  'it at most: it would end the CRM''s statement, and no handler sees it';

CREATE OR REPLACE FUNCTION leora_pipeline.wake_listeners() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  -- Only where a listener asked for it: a transaction that notifies commits alone in the database.
  IF EXISTS (
    SELECT FROM leora_pipeline.listener
    WHERE wants_notify AND seen_at > clock_timestamp() - interval '30 seconds'
  ) THEN
    NOTIFY leora_pipeline_pending;
  END IF;
EXCEPTION WHEN OTHERS THEN
  NULL;  -- That a change is captured counts for more than that a listener wakes: it polls too.
END
$$;
COMMENT ON FUNCTION leora_pipeline.wake_listeners IS
  'Notifies the listeners that asked for it of what was captured';

CREATE OR REPLACE FUNCTION leora_pipeline.capture_orders() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  PERFORM leora_pipeline.leave_time();
  IF TG_OP = 'INSERT' THEN
    INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
    SELECT DISTINCT "tenantId", "customerId" FROM after_change;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
    SELECT DISTINCT "tenantId", "customerId" FROM before_change;
  ELSE
    -- What differs between before and after, whichever way: an order that moved concerns both of
    -- its customers, and one that got another id is a different one.
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
  END IF;
  PERFORM leora_pipeline.wake_listeners();
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING MESSAGE = 'leora_pipeline: '
    || CASE WHEN TG_OP = 'INSERT' THEN 'inserted' WHEN TG_OP = 'DELETE' THEN 'deleted'
            ELSE 'updated' END
    || ' orders are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION leora_pipeline.capture_orders IS
  'Trigger of "Order": enqueues the customers of orders that came, went, or changed in what matters';

CREATE OR REPLACE FUNCTION leora_pipeline.capture_customers() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  -- The pipeline's own writes are marked, and need no refresh.
  IF TG_OP = 'UPDATE' AND current_setting('leora_pipeline.is_applying', true) = 'on' THEN
    RETURN NULL;
  END IF;
  PERFORM leora_pipeline.leave_time();
  IF TG_OP = 'INSERT' THEN
    INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
    SELECT "tenantId", id FROM after_change;
  ELSE
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
  END IF;
  PERFORM leora_pipeline.wake_listeners();
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING MESSAGE = 'leora_pipeline: '
    || CASE WHEN TG_OP = 'INSERT' THEN 'inserted' ELSE 'updated' END
    || ' customers are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION leora_pipeline.capture_customers IS
  'Trigger of "Customer": enqueues new customers, those that moved, and those whose type or date '
  'anything but the pipeline changed';
