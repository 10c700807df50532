-- name: record_verdict
-- Records one verdict.
INSERT INTO leora_pipeline.health_verdict
  (tenant_id, check_name, checked_at, run_id, severity, status, message)
VALUES (:tenant_id, :check_name, :checked_at, :run_id, :severity, :status, :message)
ON CONFLICT (tenant_id, check_name, checked_at) DO NOTHING
