-- Removes what this revision made; functions before the types of the tables that they return.
DROP FUNCTION
  leora_pipeline.derive_customers, leora_pipeline.usable_date, leora_pipeline.type_reason,
  leora_pipeline.change_cause, leora_pipeline.tenant_thresholds,
  leora_pipeline.is_lost, leora_pipeline.date_differs, leora_pipeline.type_differs,
  leora_pipeline.type_rank, leora_pipeline.is_pinned, leora_pipeline.derive_account_type,
  leora_pipeline.threshold, leora_pipeline.effective_policy;
DROP TABLE
  leora_pipeline.account_type_distribution, leora_pipeline.health_verdict,
  leora_pipeline.tenant_hold, leora_pipeline.tenant_run, leora_pipeline.account_type_transition,
  leora_pipeline.account_type_change, leora_pipeline.customer_state, leora_pipeline.tenant_policy;
