-- name: wait_briefly
-- The CRM's own transaction may have brought the customer up to date by the hook just now, and stay
-- open with what there was of it.
SET LOCAL lock_timeout = '100ms'

-- name: quarantine
-- Quarantines a customer, twice as long each time up to an hour, and deletes what is pending for it.
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
    failures = s.failures + 1,
    quarantined_at = COALESCE(s.quarantined_at, statement_timestamp()),
    retry_at = statement_timestamp() + LEAST(
      make_interval(secs => :first_pause) * power(2, LEAST(s.failures, 20)),
      make_interval(secs => :longest_pause)
    )
WHERE s.tenant_id = :tenant_id AND s.customer_id = :customer_id
