-- name: start_tenants
-- Records the tenants of a run as running, whichever of its steps comes first.
INSERT INTO leora_pipeline.tenant_run
  (tenant_id, run_id, mode, started_at, status, mass_change_allowed)
SELECT t.id, :run_id, :mode, clock_timestamp(), 'running', t.id = ANY (CAST(:allowed AS uuid[]))
FROM unnest(CAST(:tenant_ids AS uuid[])) AS t (id)
ON CONFLICT (tenant_id, run_id) DO NOTHING

-- name: fail_tenants
-- Records what went wrong for tenants of a run; the first failure of a tenant stays.
UPDATE leora_pipeline.tenant_run
SET status = 'failed', finished_at = clock_timestamp(), error = :error
WHERE run_id = :run_id AND tenant_id = ANY (CAST(:tenant_ids AS uuid[])) AND status = 'running'

-- name: finish_tenants
-- Records the tenants that came through all steps of a run.
UPDATE leora_pipeline.tenant_run
SET status = 'succeeded', finished_at = clock_timestamp()
WHERE run_id = :run_id AND tenant_id = ANY (CAST(:tenant_ids AS uuid[])) AND status = 'running'

-- name: tenants
-- The tenants that a run has started: how each stands, and what went wrong.
SELECT tenant_id, status, error
FROM leora_pipeline.tenant_run
WHERE run_id = :run_id AND tenant_id = ANY (CAST(:tenant_ids AS uuid[]))
