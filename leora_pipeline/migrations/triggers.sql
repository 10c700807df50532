-- name: order_insert
-- Captures new orders. All of these fire once a statement, see its rows as one set, and name no
-- column of the CRM's.
CREATE OR REPLACE TRIGGER leora_pipeline_insert AFTER INSERT ON "Order"
REFERENCING NEW TABLE AS after_change
FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.capture_orders()

-- name: order_update
-- Captures orders that changed in what matters.
CREATE OR REPLACE TRIGGER leora_pipeline_update AFTER UPDATE ON "Order"
REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change
FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.capture_orders()

-- name: order_delete
-- Captures deleted orders, those of a cascade among them.
CREATE OR REPLACE TRIGGER leora_pipeline_delete AFTER DELETE ON "Order"
REFERENCING OLD TABLE AS before_change
FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.capture_orders()

-- name: customer_insert
-- Captures new customers.
CREATE OR REPLACE TRIGGER leora_pipeline_insert AFTER INSERT ON "Customer"
REFERENCING NEW TABLE AS after_change
FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.capture_customers()

-- name: customer_update
-- Captures customers whose type or date anything but the pipeline changed, or that moved.
CREATE OR REPLACE TRIGGER leora_pipeline_update AFTER UPDATE ON "Customer"
REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change
FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.capture_customers()
