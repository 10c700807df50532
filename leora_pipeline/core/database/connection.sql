-- name: now
-- The one clock.
SELECT leora_pipeline.clock()

-- name: lock
-- Takes the lock of a name until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))

-- name: tune_for_whole_tables
-- A read of everything hashes a row a customer; what the defaults give it spills to disk, and
-- compiling it costs more than it saves.
SET LOCAL work_mem = '128MB'; SET LOCAL jit = off
