-- name: wait_briefly
-- The CRM's own transaction may have brought the customer up to date by the hook just now, and stay
-- open with what there was of it.
SET LOCAL lock_timeout = '100ms'

-- name: failures
-- How often in a row a customer has been refused so far.
SELECT failures
FROM leora_pipeline.customer_state
WHERE tenant_id = :tenant_id AND customer_id = :customer_id

-- name: quarantine
-- Quarantines a customer for a while, and deletes what is pending for it.
WITH deleted AS (
  DELETE FROM leora_pipeline.pending_customer AS p
  USING (
    SELECT q.tenant_id, q.pending_id
    FROM leora_pipeline.pending_customer AS q
    WHERE q.tenant_id = :tenant_id AND q.customer_id = :customer_id
    FOR UPDATE SKIP LOCKED
  ) AS seen
  WHERE p.tenant_id = seen.tenant_id AND p.pending_id = seen.pending_id
)
UPDATE leora_pipeline.customer_state AS s
SET error = :error,
    failures = :failures,
    quarantined_at = COALESCE(s.quarantined_at, statement_timestamp()),
    retry_at = statement_timestamp() + make_interval(secs => :pause)
WHERE s.tenant_id = :tenant_id AND s.customer_id = :customer_id
