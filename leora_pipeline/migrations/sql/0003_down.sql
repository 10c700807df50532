-- Removes what this revision made.
DROP FUNCTION
  leora_pipeline.after_order_create, leora_pipeline.write_customers,
  leora_pipeline.refresh_locked, leora_pipeline.untold_customers,
  leora_pipeline.overdue_customers, leora_pipeline.clock;
DROP TRIGGER wake_listeners ON leora_pipeline.pending_customer;
DROP FUNCTION leora_pipeline.wake_listeners;
DROP TABLE leora_pipeline.listener, leora_pipeline.set_aside_customer;
