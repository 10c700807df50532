-- name: write_message
-- Puts a message into the outbox, due at once; only digests belong to no incident.
INSERT INTO leora_pipeline.alert_message
  (tenant_id, incident_id, kind, event, severity, title, body, created_at, retry_at)
VALUES (:tenant_id, :incident_id, :kind, :event, :severity, :title, :body, :now, :now)

-- name: unsent
-- The messages that wait, the oldest first.
SELECT title, event, created_at, attempts, retry_at, last_error
FROM leora_pipeline.alert_message
WHERE sent_at IS NULL AND expired_at IS NULL
ORDER BY created_at, message_id
