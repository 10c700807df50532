-- name: order_insert
-- Notes the customers of new orders. All of these fire once a statement, see its rows as one set, and
-- name no column of the CRM's.
CREATE OR REPLACE TRIGGER leora_pipeline_insert AFTER INSERT ON "Order"
REFERENCING NEW TABLE AS after_change
FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.note_inserted_orders()

-- name: order_update
-- Notes the customers of orders that changed in what matters.
CREATE OR REPLACE TRIGGER leora_pipeline_update AFTER UPDATE ON "Order"
REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change
FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.note_updated_orders()

-- name: order_delete
-- Notes the customers of deleted orders, those of a cascade among them.
CREATE OR REPLACE TRIGGER leora_pipeline_delete AFTER DELETE ON "Order"
REFERENCING OLD TABLE AS before_change
FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.note_deleted_orders()

-- name: customer_insert
-- Notes new customers.
CREATE OR REPLACE TRIGGER leora_pipeline_insert AFTER INSERT ON "Customer"
REFERENCING NEW TABLE AS after_change
FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.note_inserted_customers()

-- name: customer_update
-- Notes customers whose type or date somebody else than the pipeline changed, or who moved.
CREATE OR REPLACE TRIGGER leora_pipeline_update AFTER UPDATE ON "Customer"
REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change
FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.note_updated_customers()

-- name: drop_order_triggers
-- Removes the triggers of "Order" with their functions: only a table's owner may drop its triggers,
-- and those go with the functions, which are ours.
DROP FUNCTION IF EXISTS
  leora_pipeline.note_inserted_orders, leora_pipeline.note_updated_orders,
  leora_pipeline.note_deleted_orders CASCADE

-- name: drop_customer_triggers
-- Removes the triggers of "Customer", likewise.
DROP FUNCTION IF EXISTS
  leora_pipeline.note_inserted_customers, leora_pipeline.note_updated_customers CASCADE
