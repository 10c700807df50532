-- Which customers there is something to do for, beside the pending ones. Found by index ranges.

CREATE OR REPLACE FUNCTION leora_pipeline.due_customers(p_tenant_ids uuid[], p_as_of timestamptz)
RETURNS TABLE (tenant_id uuid, customer_id uuid) LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT p.tenant_id, s.customer_id
  FROM leora_pipeline.tenant_thresholds(p_tenant_ids, p_as_of) AS p
  CROSS JOIN LATERAL (
    SELECT a.customer_id FROM leora_pipeline.customer_state AS a
    WHERE a.tenant_id = p.tenant_id AND a.account_type = 'ACTIVE'
      AND a.last_order_at < p.active_since
    UNION ALL
    SELECT b.customer_id FROM leora_pipeline.customer_state AS b
    WHERE b.tenant_id = p.tenant_id AND b.account_type = 'TARGET'
      AND b.last_order_at < p.target_since
    UNION ALL
    SELECT c.customer_id FROM leora_pipeline.customer_state AS c
    WHERE c.tenant_id = p.tenant_id AND c.account_type = 'TARGET'
      AND c.last_order_at >= p.active_since
    UNION ALL
    SELECT d.customer_id FROM leora_pipeline.customer_state AS d
    WHERE d.tenant_id = p.tenant_id AND d.account_type = 'PROSPECT'
      AND d.last_order_at >= p.target_since
    UNION ALL
    SELECT e.customer_id FROM leora_pipeline.customer_state AS e
    WHERE e.tenant_id = p.tenant_id AND e.next_order_at <= p_as_of
  ) AS s
$$;
COMMENT ON FUNCTION leora_pipeline.due_customers IS
  'Customers whose state the time alone has outdated: a threshold passed (or was changed), or a '
  'future order came due; found by index ranges';

CREATE OR REPLACE FUNCTION leora_pipeline.due_customers_and_retries(p_tenant_ids uuid[], p_as_of timestamptz)
RETURNS TABLE (tenant_id uuid, customer_id uuid) LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT d.tenant_id, d.customer_id
  FROM leora_pipeline.due_customers(p_tenant_ids, p_as_of) AS d
  WHERE NOT EXISTS (
    SELECT FROM leora_pipeline.customer_state AS a
    WHERE a.tenant_id = d.tenant_id AND a.customer_id = d.customer_id AND a.retry_at IS NOT NULL
  )
  UNION ALL
  SELECT a.tenant_id, a.customer_id
  FROM leora_pipeline.customer_state AS a
  WHERE a.tenant_id = ANY (p_tenant_ids) AND a.retry_at <= p_as_of
$$;
COMMENT ON FUNCTION leora_pipeline.due_customers_and_retries IS
  'Customers to refresh though no change is noted: those whom time has outdated, and those who were '
  'quarantined and may be retried';

CREATE OR REPLACE FUNCTION leora_pipeline.unsynced_customers(p_tenant_ids uuid[])
RETURNS TABLE (tenant_id uuid, customer_id uuid) LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT s.tenant_id, s.customer_id
  FROM leora_pipeline.customer_state AS s
  JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
  WHERE s.tenant_id = ANY (p_tenant_ids) AND s.needs_sync AND s.retry_at IS NULL AND (
    c."accountType" IS NULL
    OR leora_pipeline.type_rank(s.account_type) > leora_pipeline.type_rank(c."accountType"::text)
    OR NOT EXISTS (
      SELECT FROM leora_pipeline.hold_in_force AS h WHERE h.tenant_id = s.tenant_id
    )
  )
$$;
COMMENT ON FUNCTION leora_pipeline.unsynced_customers IS
  'Customers whom the CRM has still to be told about, and may be; of a held tenant, those who rise';

CREATE OR REPLACE FUNCTION leora_pipeline.order_loss_customers(
  p_tenant_id uuid, p_customer_ids uuid[], p_as_of timestamptz
) RETURNS uuid[] LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN ARRAY(
    SELECT s.customer_id
    FROM leora_pipeline.tenant_thresholds(ARRAY[p_tenant_id], p_as_of) AS q
    CROSS JOIN leora_pipeline.customer_state AS s
    JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
    WHERE s.tenant_id = p_tenant_id AND s.customer_id = ANY (p_customer_ids)
      AND leora_pipeline.is_order_loss(
        c."accountType"::text, s.account_type, s.synced_order_at, s.last_order_at,
        q.active_since, q.target_since
      )
  );
END
$$;
COMMENT ON FUNCTION leora_pipeline.order_loss_customers IS
  'Those of some customers whom the CRM would see demoted because an order is gone';
