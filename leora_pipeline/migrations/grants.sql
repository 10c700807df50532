-- name: close
-- Leaves the functions to their owner: PostgreSQL lets everybody execute what is new.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA leora_pipeline FROM PUBLIC

-- name: runtime
-- What the role leora_runtime needs, which runs everything but `leora migrate`. A row lock asks for the
-- privilege to update a column of the row, any one.
DO $$
DECLARE
  v_function regprocedure;
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'leora_runtime') THEN
    GRANT USAGE ON SCHEMA leora_pipeline TO leora_runtime;
    GRANT SELECT ON ALL TABLES IN SCHEMA leora_pipeline TO leora_runtime;
    GRANT INSERT, UPDATE, DELETE ON
      leora_pipeline.account_type_distribution,
      leora_pipeline.account_type_transition,
      leora_pipeline.alert_message,
      leora_pipeline.customer_state,
      leora_pipeline.incident,
      leora_pipeline.listener,
      leora_pipeline.tenant_hold,
      leora_pipeline.tenant_run
    TO leora_runtime;
    GRANT INSERT, DELETE ON
      leora_pipeline.account_type_change,
      leora_pipeline.health_verdict,
      leora_pipeline.own_write,
      leora_pipeline.pending_customer,
      leora_pipeline.policy_change,
      leora_pipeline.policy_reclassification,
      leora_pipeline.tenant_alert_url,
      leora_pipeline.tenant_policy
    TO leora_runtime;
    GRANT INSERT, UPDATE (name) ON leora_pipeline.work_lock TO leora_runtime;
    GRANT UPDATE (captured_at) ON leora_pipeline.pending_customer TO leora_runtime;
    GRANT UPDATE (type_after) ON leora_pipeline.policy_reclassification TO leora_runtime;
    GRANT INSERT (customer_id), DELETE ON leora_pipeline.hook_ticket TO leora_runtime;
    FOR v_function IN
      SELECT oid FROM pg_proc
      WHERE pronamespace = 'leora_pipeline'::regnamespace AND prorettype <> 'trigger'::regtype
        AND proname <> 'wake_listeners'
    LOOP
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO leora_runtime', v_function);
    END LOOP;
  END IF;
END
$$

-- name: hook
-- What the role leora_hook needs, which an application is granted that calls after_order_create().
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'leora_hook') THEN
    GRANT USAGE ON SCHEMA leora_pipeline TO leora_hook;
    GRANT INSERT (customer_id) ON leora_pipeline.hook_ticket TO leora_hook;
    GRANT EXECUTE ON FUNCTION
      leora_pipeline.after_order_create,
      leora_pipeline.update_ticketed_customers,
      leora_pipeline.leave_time
    TO leora_hook;
  END IF;
END
$$

-- name: reader
-- What the role leora_reader needs, which is granted to what reads the tables of the contract.
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'leora_reader') THEN
    GRANT USAGE ON SCHEMA leora_pipeline TO leora_reader;
    GRANT SELECT ON
      leora_pipeline.account_type_change,
      leora_pipeline.account_type_distribution,
      leora_pipeline.account_type_transition,
      leora_pipeline.customer_state,
      leora_pipeline.health_verdict,
      leora_pipeline.pending_customer,
      leora_pipeline.tenant_hold,
      leora_pipeline.tenant_policy,
      leora_pipeline.tenant_run
    TO leora_reader;
  END IF;
END
$$

-- name: is_missing
-- Whether a role of the pipeline's is there that has not been granted anything yet.
SELECT EXISTS (
  SELECT FROM pg_roles
  WHERE rolname IN ('leora_runtime', 'leora_hook', 'leora_reader')
    AND NOT has_schema_privilege(oid, 'leora_pipeline', 'USAGE')
)

-- name: has_owner
-- Whether the schema belongs to a role.
SELECT nspowner = to_regrole(quote_ident(:role)) FROM pg_namespace WHERE nspname = 'leora_pipeline'

-- name: role_exists
-- Whether there is a role.
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)

-- name: superuser_that_owns
-- The schema's owner, where that is a superuser.
SELECT r.rolname
FROM pg_namespace AS n
JOIN pg_roles AS r ON r.oid = n.nspowner
WHERE n.nspname = 'leora_pipeline' AND r.rolsuper

-- name: hand_over
-- Makes a role the owner of the schema and all in it, as statements to run.
SELECT format('ALTER SCHEMA leora_pipeline OWNER TO %I', CAST(:role AS text))
UNION ALL
SELECT format(
  'ALTER %s %s OWNER TO %I',
  CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, c.oid::regclass, CAST(:role AS text)
)
FROM pg_class AS c
WHERE c.relnamespace = 'leora_pipeline'::regnamespace AND c.relkind IN ('r', 'p', 'v')
UNION ALL
SELECT format('ALTER FUNCTION %s OWNER TO %I', p.oid::regprocedure, CAST(:role AS text))
FROM pg_proc AS p
WHERE p.pronamespace = 'leora_pipeline'::regnamespace

-- name: left_out
-- The roles that may use the schema, as the hook's callers had to in revision 0001, and belong to none
-- of the roles that may from now on.
SELECT r.rolname
FROM pg_namespace AS n
CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
JOIN pg_roles AS r ON r.oid = a.grantee
WHERE n.nspname = 'leora_pipeline' AND a.privilege_type = 'USAGE' AND r.oid <> n.nspowner
  AND NOT EXISTS (
    SELECT FROM pg_roles AS g
    WHERE g.rolname IN ('leora_runtime', 'leora_hook', 'leora_reader')
      AND pg_has_role(r.oid, g.oid, 'USAGE')
  )
ORDER BY 1
