-- Change capture: what the triggers of triggers.sql call. Their columns are named in strings that
-- PostgreSQL resolves when it runs them, so that the CRM's migrations are free. They run as the
-- schema's owner, with a search path (set in crm_schema.sql) and a lock timeout of their own, and turn
-- every error into a warning: the nightly run finds a change that was not captured, while a statement
-- that fails is the CRM's loss. One error alone is raised: a statement meets it that makes its own
-- transaction read-only, which would hide its changes. One function a table, so that to replace or to
-- drop one locks one table of the CRM's.
--
-- What runs as the owner has to mistrust the table that it is called for. Nobody else may execute these
-- functions, so no other role can attach them (grants.sql); they work for tables in the CRM's schema
-- alone, which is the one of their search path that is not PostgreSQL's own; and ids become text by
-- format(), which calls no cast, since a table's owner may have made one.

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
  'Where the CRM''s session has a statement timeout, lets a trigger, or the hook, wait for half of '
  'what is left of it at most: it would end the CRM''s statement, and no handler sees it';

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
SET lock_timeout = '50ms' AS $$
BEGIN
  PERFORM leora_pipeline.leave_time();
  IF TG_TABLE_SCHEMA <> ALL (current_schemas(false)) OR TG_TABLE_SCHEMA LIKE 'pg\_%' THEN
    RAISE EXCEPTION 'table % is not in the CRM''s schema', TG_RELID::regclass;
  END IF;
  IF TG_OP = 'INSERT' THEN
    INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
    SELECT format('%s', n."tenantId")::uuid, format('%s', n."customerId")::uuid
    FROM (SELECT DISTINCT "tenantId", "customerId" FROM after_change) AS n;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
    SELECT format('%s', n."tenantId")::uuid, format('%s', n."customerId")::uuid
    FROM (SELECT DISTINCT "tenantId", "customerId" FROM before_change) AS n;
  ELSE
    -- What differs between before and after, whichever way: an order that moved concerns both of
    -- its customers, and one that got another id is a different one.
    INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
    SELECT format('%s', n."tenantId")::uuid, format('%s', n."customerId")::uuid
    FROM (SELECT DISTINCT "tenantId", "customerId" FROM (
      (SELECT id, "tenantId", "customerId", status, "orderedAt" FROM before_change
       EXCEPT ALL
       SELECT id, "tenantId", "customerId", status, "orderedAt" FROM after_change)
      UNION ALL
      (SELECT id, "tenantId", "customerId", status, "orderedAt" FROM after_change
       EXCEPT ALL
       SELECT id, "tenantId", "customerId", status, "orderedAt" FROM before_change)
    ) AS changed) AS n;
  END IF;
  PERFORM leora_pipeline.wake_listeners();
  RETURN NULL;
EXCEPTION WHEN read_only_sql_transaction THEN
  RAISE;
WHEN OTHERS THEN
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
SET lock_timeout = '50ms' AS $$
BEGIN
  PERFORM leora_pipeline.leave_time();
  IF TG_TABLE_SCHEMA <> ALL (current_schemas(false)) OR TG_TABLE_SCHEMA LIKE 'pg\_%' THEN
    RAISE EXCEPTION 'table % is not in the CRM''s schema', TG_RELID::regclass;
  END IF;
  -- The pipeline's own writes need no refresh. One that a trigger of the CRM's makes meanwhile does.
  IF TG_OP = 'UPDATE' AND EXISTS (
    SELECT FROM leora_pipeline.own_write AS w
    WHERE w.transaction_id = pg_current_xact_id() AND w.trigger_depth = pg_trigger_depth() - 1
  ) THEN
    RETURN NULL;
  END IF;
  IF TG_OP = 'INSERT' THEN
    INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
    SELECT format('%s', "tenantId")::uuid, format('%s', id)::uuid FROM after_change;
  ELSE
    INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
    SELECT format('%s', n."tenantId")::uuid, format('%s', n.id)::uuid
    FROM (SELECT DISTINCT "tenantId", id FROM (
      (SELECT id, "tenantId", "accountType", "lastOrderDate" FROM before_change
       EXCEPT ALL
       SELECT id, "tenantId", "accountType", "lastOrderDate" FROM after_change)
      UNION ALL
      (SELECT id, "tenantId", "accountType", "lastOrderDate" FROM after_change
       EXCEPT ALL
       SELECT id, "tenantId", "accountType", "lastOrderDate" FROM before_change)
    ) AS changed) AS n;
  END IF;
  PERFORM leora_pipeline.wake_listeners();
  RETURN NULL;
EXCEPTION WHEN read_only_sql_transaction THEN
  RAISE;
WHEN OTHERS THEN
  RAISE WARNING USING MESSAGE = 'leora_pipeline: '
    || CASE WHEN TG_OP = 'INSERT' THEN 'inserted' ELSE 'updated' END
    || ' customers are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION leora_pipeline.capture_customers IS
  'Trigger of "Customer": enqueues new customers, those that moved, and those whose type or date '
  'anything but the pipeline changed';
