-- name: now
-- The one clock.
SELECT leora_pipeline.clock()

-- name: lock
-- Takes a lock until the transaction ends; returns a row where there is one to lock.
SELECT name FROM leora_pipeline.work_lock
WHERE tenant_id = :tenant_id AND name = :name
FOR NO KEY UPDATE

-- name: create_lock
-- Makes a lock; waits for another session that is at the same.
INSERT INTO leora_pipeline.work_lock (tenant_id, name)
VALUES (:tenant_id, :name)
ON CONFLICT (tenant_id, name) DO NOTHING

-- name: tune_for_whole_tables
-- A read of everything hashes a row a customer; what the defaults give it spills to disk, and
-- compiling it costs more than it saves.
SET LOCAL work_mem = '128MB'; SET LOCAL jit = off
