-- name: create
-- The roles of the pipeline, and what each needs of the CRM. Run this in the CRM's database, as a role
-- that may create roles and grant on the CRM's tables. Then give the first two a password (in psql:
-- \password leora_owner), run `leora migrate` as leora_owner, and everything else as leora_runtime.
-- It may be run again.
DO $$
DECLARE
  v_role text;
BEGIN
  SET LOCAL search_path = pg_catalog;  -- So that no function of another role's runs here.
  FOREACH v_role IN ARRAY ARRAY[
    'leora_owner LOGIN',     -- Owns the schema leora_pipeline; `leora migrate` alone connects as it.
    'leora_runtime LOGIN',   -- Runs everything else.
    'leora_hook NOLOGIN',    -- For applications that call the hook: GRANT leora_hook TO them.
    'leora_reader NOLOGIN'   -- For what reads the pipeline's tables: GRANT leora_reader TO it.
  ] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = split_part(v_role, ' ', 1)) THEN
      EXECUTE 'CREATE ROLE ' || v_role;
    END IF;
  END LOOP;
  -- Row level security would hide orders from them without an error, so they are exempt where the CRM
  -- has it. (The functions that its sessions run are the owner's.)
  IF EXISTS (
    SELECT FROM pg_class
    WHERE oid IN (to_regclass('{schema}."Tenant"'), to_regclass('{schema}."Customer"'),
                  to_regclass('{schema}."Order"'))
      AND relrowsecurity
  ) THEN
    ALTER ROLE leora_owner BYPASSRLS;
    ALTER ROLE leora_runtime BYPASSRLS;
  END IF;
  -- For the installation; `leora migrate` says when to revoke it.
  EXECUTE format('GRANT CREATE ON DATABASE %I TO leora_owner', current_database());
END
$$;
GRANT TRIGGER ON {schema}."Customer", {schema}."Order" TO leora_owner;

GRANT USAGE ON SCHEMA {schema} TO leora_owner, leora_runtime;
GRANT SELECT ({customer}) ON {schema}."Customer" TO leora_owner, leora_runtime;
GRANT UPDATE ({written}) ON {schema}."Customer" TO leora_owner, leora_runtime;
GRANT SELECT ({order}) ON {schema}."Order" TO leora_owner, leora_runtime;
GRANT SELECT ({tenant}) ON {schema}."Tenant" TO leora_runtime;

-- What makes messages easier to read, where the CRM has it.
DO $$
DECLARE
  v_column record;
BEGIN
  SET LOCAL search_path = pg_catalog;
  FOR v_column IN
    SELECT c.oid::regclass AS table_name, a.attname
    FROM (VALUES
      {optional}
    ) AS w (table_name, column_names)
    JOIN pg_class AS c ON c.oid = to_regclass('{schema}.' || quote_ident(w.table_name))
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND a.attname = ANY (w.column_names)
  LOOP
    EXECUTE format(
      'GRANT SELECT (%I) ON %s TO leora_runtime', v_column.attname, v_column.table_name
    );
  END LOOP;
END
$$;

-- name: drop
-- Removes the roles. Run this in the CRM's database after `leora migrate --down`; a role that another
-- database still needs stays, with an error.
DROP OWNED BY leora_owner, leora_runtime, leora_hook, leora_reader;
DROP ROLE leora_owner, leora_runtime, leora_hook, leora_reader;
