-- name: next_tenant
-- The next tenant, after another, for whom a change is noted. As the driver writes parameters, like
-- all here that the listener's own connection runs: it polls in one round trip.
SELECT tenant_id
FROM leora_pipeline.pending_customer
WHERE tenant_id > %(after)s::uuid
ORDER BY tenant_id
LIMIT 1

-- name: report
-- Says that a listener runs, and whether it asks to be notified.
INSERT INTO leora_pipeline.listener (listener_id, started_at, seen_at, wants_notify)
VALUES (%(listener_id)s, clock_timestamp(), clock_timestamp(), %(wants_notify)s)
ON CONFLICT (listener_id) DO UPDATE SET seen_at = EXCLUDED.seen_at

-- name: forget_the_dead
-- Forgets listeners that were killed.
DELETE FROM leora_pipeline.listener WHERE seen_at < clock_timestamp() - interval '1 hour'

-- name: leave
-- Says that a listener has ended.
DELETE FROM leora_pipeline.listener WHERE listener_id = %(listener_id)s

-- name: claim_pending
-- The next pending rows of a tenant that nobody else has claimed, claimed until the transaction ends.
SELECT
  p.pending_id,
  p.customer_id,
  EXISTS (
    SELECT FROM leora_pipeline.customer_state AS s
    WHERE s.tenant_id = p.tenant_id AND s.customer_id = p.customer_id
      AND s.retry_at > clock_timestamp()
  ) AS is_set_aside,
  (
    SELECT count(*) = :batch FROM (
      SELECT FROM leora_pipeline.pending_customer WHERE tenant_id = :tenant_id LIMIT :batch
    ) AS q
  ) AS is_backlog
FROM leora_pipeline.pending_customer AS p
WHERE p.tenant_id = :tenant_id AND p.pending_id > :after
ORDER BY p.pending_id
LIMIT :batch
FOR UPDATE OF p SKIP LOCKED

-- name: forget_claimed
-- Deletes claimed rows of customers who are set aside: they will be looked at anyway.
DELETE FROM leora_pipeline.pending_customer
WHERE tenant_id = :tenant_id AND pending_id = ANY (CAST(:pending_ids AS bigint[]))

-- name: overdue_tenants
-- The tenants of whom somebody is overdue, or still to be told.
SELECT t.id
FROM "Tenant" AS t
WHERE EXISTS (
  SELECT FROM leora_pipeline.overdue_customers(ARRAY[t.id], CAST(:as_of AS timestamptz))
) OR EXISTS (
  SELECT FROM leora_pipeline.untold_customers(ARRAY[t.id])
)

-- name: overdue
-- The next customers of a tenant who are overdue or still to be told, whom nobody noted.
SELECT customer_id
FROM (
  SELECT customer_id
  FROM leora_pipeline.overdue_customers(ARRAY[CAST(:tenant_id AS uuid)], CAST(:as_of AS timestamptz))
  UNION
  SELECT customer_id FROM leora_pipeline.untold_customers(ARRAY[CAST(:tenant_id AS uuid)])
) AS w
WHERE customer_id > CAST(:after AS uuid)
ORDER BY customer_id
LIMIT :batch

-- name: is_backlog
-- Whether a batch or more is pending for a tenant.
SELECT count(*) = :batch
FROM (
  SELECT FROM leora_pipeline.pending_customer WHERE tenant_id = :tenant_id LIMIT :batch
) AS p

-- name: wait_briefly
-- The CRM's own transaction may have brought the customer up to date by the hook just now, and stay
-- open with what there was of it.
SET LOCAL lock_timeout = '100ms'

-- name: set_aside
-- Sets a customer aside, twice as long each time up to an hour, and forgets what is pending for it.
WITH noted AS (
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
