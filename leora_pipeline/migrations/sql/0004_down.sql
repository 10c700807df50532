-- Removes what this revision made.
DROP TABLE
  leora_pipeline.tenant_alert_url, leora_pipeline.alert_message, leora_pipeline.incident;
