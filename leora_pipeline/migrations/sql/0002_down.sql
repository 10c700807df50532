-- Removes what this revision made; the triggers are gone by then.
DROP FUNCTION leora_pipeline.due_customers;
DROP TABLE leora_pipeline.pending_customer;
DROP INDEX leora_pipeline.customer_state_by_date, leora_pipeline.customer_state_next_order;
DELETE FROM leora_pipeline.tenant_run WHERE mode = 'incremental';
ALTER TABLE leora_pipeline.tenant_run DROP CONSTRAINT tenant_run_mode_check;
ALTER TABLE leora_pipeline.tenant_run ADD CONSTRAINT tenant_run_mode_check
  CHECK (mode IN ('full', 'partial'));
