-- name: expire
-- Gives up messages that are no news any more: old digests, and what was to be said of incidents
-- that ended long ago, their beginning and their end together.
UPDATE leora_pipeline.alert_message AS m
SET expired_at = clock_timestamp()
WHERE m.sent_at IS NULL AND m.expired_at IS NULL AND (
  m.incident_id IS NULL
    AND m.created_at < clock_timestamp() - make_interval(days => :expire_after)
  OR EXISTS (
    SELECT FROM leora_pipeline.incident AS i
    WHERE i.tenant_id = m.tenant_id AND i.incident_id = m.incident_id
      AND i.resolved_at < clock_timestamp() - make_interval(days => :expire_after)
  )
)

-- name: due
-- The messages to be tried now: those that have waited longest first, and each incident's in order.
SELECT tenant_id, message_id
FROM leora_pipeline.alert_message
WHERE sent_at IS NULL AND expired_at IS NULL
  AND (CAST(:at_once AS boolean) OR retry_at <= clock_timestamp())
ORDER BY
  min(retry_at) OVER (PARTITION BY tenant_id, COALESCE(incident_id, -message_id)), message_id

-- name: allow_sending
-- Lets the transaction wait for as long as one message may take to be sent.
SET LOCAL idle_in_transaction_session_timeout = '30s'

-- name: claim
-- Locks a message that waits, unless another sender has it.
SELECT kind, event, severity, title, body, delivered_to, attempts
FROM leora_pipeline.alert_message
WHERE tenant_id = :tenant_id AND message_id = :message_id
  AND sent_at IS NULL AND expired_at IS NULL
FOR UPDATE SKIP LOCKED

-- name: earlier
-- Who has got each of the earlier messages about the same incident that wait.
SELECT e.delivered_to
FROM leora_pipeline.alert_message AS m
JOIN leora_pipeline.alert_message AS e
  ON e.tenant_id = m.tenant_id AND e.incident_id = m.incident_id AND e.message_id < m.message_id
WHERE m.tenant_id = :tenant_id AND m.message_id = :message_id
  AND e.sent_at IS NULL AND e.expired_at IS NULL

-- name: record_delivery
-- Notes that an address has got a message.
UPDATE leora_pipeline.alert_message
SET delivered_to = array_append(delivered_to, CAST(:fingerprint AS text)),
    delivered_at = clock_timestamp()
WHERE tenant_id = :tenant_id AND message_id = :message_id

-- name: mark_sent
-- Notes that all of its addresses have got a message.
UPDATE leora_pipeline.alert_message
SET sent_at = clock_timestamp(), last_error = NULL
WHERE tenant_id = :tenant_id AND message_id = :message_id

-- name: record_failure
-- Notes that some address could not be given a message, and when to try again.
UPDATE leora_pipeline.alert_message
SET attempts = :attempts, retry_at = clock_timestamp() + make_interval(secs => :pause),
    last_error = :error
WHERE tenant_id = :tenant_id AND message_id = :message_id
