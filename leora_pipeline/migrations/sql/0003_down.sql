-- Removes what this revision made; the functions that it replaced go with the revision before.
DROP FUNCTION
  leora_pipeline.after_order_create, leora_pipeline.write_customers,
  leora_pipeline.lost_customers,
  leora_pipeline.refresh_customers, leora_pipeline.refresh_locked,
  leora_pipeline.meet_customers, leora_pipeline.untold_customers,
  leora_pipeline.overdue_customers, leora_pipeline.is_date_withheld,
  leora_pipeline.is_type_withheld, leora_pipeline.clock;
DROP FUNCTION leora_pipeline.wake_listeners, leora_pipeline.leave_time;
DROP TABLE
  leora_pipeline.listener, leora_pipeline.policy_shift, leora_pipeline.policy_change,
  leora_pipeline.set_aside_customer;
ALTER TABLE leora_pipeline.customer_state DROP COLUMN is_shifted;
