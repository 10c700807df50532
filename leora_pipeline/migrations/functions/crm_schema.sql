-- Where the functions that the CRM's sessions run find the CRM's tables: in the schema in which this
-- finds them, whatever the caller's search path says. So other tables cannot take their place,
-- and what is temporary comes last.

DO $$
DECLARE
  v_schema text;
  v_function text;
BEGIN
  SELECT quote_ident(n.nspname) || ', ' INTO v_schema
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.oid = to_regclass('"Customer"');
  FOREACH v_function IN ARRAY ARRAY[
    'capture_orders', 'capture_customers', 'check_tickets', 'update_ticketed_customers',
    'after_order_create'
  ] LOOP
    EXECUTE 'ALTER FUNCTION leora_pipeline.' || v_function || ' SET search_path = pg_catalog, '
      || COALESCE(v_schema, '') || 'pg_temp';
  END LOOP;
END
$$;
