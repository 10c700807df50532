-- Marks within one transaction. Their rows are deleted by the transaction that inserts them, so that
-- nobody else ever sees one, and a crash loses none that counts: they need no log.

CREATE UNLOGGED TABLE leora_pipeline.own_write (
  transaction_id xid8 NOT NULL,
  trigger_depth integer NOT NULL,
  PRIMARY KEY (transaction_id, trigger_depth)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE leora_pipeline.own_write IS
  'The write to the CRM that the pipeline is at, in this transaction and depth of triggers: capture '
  'leaves it out. A setting of the session would not do: any writer can make one';

CREATE UNLOGGED TABLE leora_pipeline.hook_ticket (
  transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
  customer_id uuid NOT NULL,
  PRIMARY KEY (transaction_id, customer_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE leora_pipeline.hook_ticket IS
  'The customers that a caller of the hook sees, in this transaction: the hook touches no other';

CREATE TABLE leora_pipeline.work_lock (
  tenant_id uuid NOT NULL,
  name text NOT NULL,
  PRIMARY KEY (tenant_id, name)
);
COMMENT ON TABLE leora_pipeline.work_lock IS
  'A row to lock for each thing that one transaction at a time does for a tenant (or for all: the nil '
  'UUID). Advisory locks would not do: any role that may connect can take those, and hold them';
