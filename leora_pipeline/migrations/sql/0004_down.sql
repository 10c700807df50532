-- Removes what this revision made.
DROP TABLE
  leora_pipeline.tenant_alert_url, leora_pipeline.alert_message, leora_pipeline.incident;
ALTER TABLE leora_pipeline.account_type_transition DROP COLUMN digested_at;
