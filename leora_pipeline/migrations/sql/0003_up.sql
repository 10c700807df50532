-- Real time: what the listener needs, and the steps that it shares with the hook as functions, so
-- that the CRM's own transaction can take them too. PL/pgSQL, whose statements each see what was
-- committed before them. What reads orders is planned anew each time, since one customer and 20,000
-- are not read alike; what goes by the keys of the locked rows alone keeps its plan.
-- Beside it, what a change of a tenant's policy leaves behind.

CREATE TABLE leora_pipeline.set_aside_customer (
  tenant_id uuid NOT NULL,
  customer_id uuid NOT NULL,
  error text NOT NULL,
  failures integer NOT NULL CHECK (failures > 0),
  set_aside_at timestamptz(3) NOT NULL,
  retry_at timestamptz(3) NOT NULL,
  PRIMARY KEY (tenant_id, customer_id)
);
COMMENT ON TABLE leora_pipeline.set_aside_customer IS
  'Customers whom the CRM''s database refused to have written, kept from the others until retry_at';

CREATE TABLE leora_pipeline.policy_change (
  tenant_id uuid NOT NULL,
  changed_at timestamptz(3) NOT NULL,
  changed_by text NOT NULL,
  before jsonb NOT NULL,
  after jsonb NOT NULL,
  PRIMARY KEY (tenant_id, changed_at)
);
COMMENT ON TABLE leora_pipeline.policy_change IS
  'Who changed a tenant''s policy when: those of its values that changed, before and after';

-- Append-only like pending_customer: whoever changes a policy meets no run. One change of a tenant's
-- policy commits after the other, so that shift_id tells which of them a run has seen.
CREATE TABLE leora_pipeline.policy_shift (
  tenant_id uuid NOT NULL,
  shift_id bigint GENERATED ALWAYS AS IDENTITY,
  customer_id uuid NOT NULL,
  type_before text NOT NULL,
  type_after text NOT NULL,
  date_before timestamptz(3),
  date_after timestamptz(3),
  PRIMARY KEY (tenant_id, shift_id)
);
CREATE INDEX policy_shift_customer ON leora_pipeline.policy_shift (tenant_id, customer_id);
COMMENT ON TABLE leora_pipeline.policy_shift IS
  'What a change of a tenant''s policy made of a customer, type and last order date, until a refresh '
  'has taken it over: no order is missing';

ALTER TABLE leora_pipeline.customer_state ADD COLUMN is_shifted boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN leora_pipeline.customer_state.is_shifted IS
  'Whether the type is what a change of the tenant''s policy made of it, and still to be told';

-- Not a tenant's, and never joined with what is.
CREATE TABLE leora_pipeline.listener (
  listener_id text PRIMARY KEY,
  started_at timestamptz(3) NOT NULL,
  seen_at timestamptz(3) NOT NULL,
  wants_notify boolean NOT NULL
);
COMMENT ON TABLE leora_pipeline.listener IS
  'The real-time workers that run; one not seen for 30 seconds was killed';

CREATE FUNCTION leora_pipeline.wake_listeners() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  -- Only where somebody asked for it: a transaction that notifies commits alone in the database.
  IF EXISTS (
    SELECT FROM leora_pipeline.listener
    WHERE wants_notify AND seen_at > clock_timestamp() - interval '30 seconds'
  ) THEN
    NOTIFY leora_pipeline_pending;
  END IF;
EXCEPTION WHEN OTHERS THEN
  NULL;  -- What is noted counts for more than that somebody is woken; listeners poll too.
END
$$;
COMMENT ON FUNCTION leora_pipeline.wake_listeners IS
  'Notifies the listeners that asked for it of what was noted';

CREATE FUNCTION leora_pipeline.leave_time() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_limit interval := current_setting('statement_timeout');
  v_wait interval;
BEGIN
  IF v_limit > interval '0' THEN
    v_wait := (statement_timestamp() + v_limit - clock_timestamp()) / 2;
    IF v_wait < current_setting('lock_timeout')::interval THEN
      PERFORM set_config(
        'lock_timeout',
        greatest(1, floor(1000 * extract(epoch FROM v_wait)))::integer::text, true
      );
    END IF;
  END IF;
END
$$;
COMMENT ON FUNCTION leora_pipeline.leave_time IS
  'Where the CRM''s session has a statement timeout, lets a trigger wait for half of what is left of '
  'it at most: it would end the CRM''s statement, and no handler sees it';

-- The triggers' functions again, which now leave time and wake. They are replaced rather than joined
-- by a trigger on pending_customer: to set one takes a lock that every writer of the CRM would meet.

CREATE OR REPLACE FUNCTION leora_pipeline.note_inserted_orders() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  PERFORM leora_pipeline.leave_time();
  INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
  SELECT DISTINCT "tenantId", "customerId" FROM after_change;
  PERFORM leora_pipeline.wake_listeners();
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: inserted orders are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION leora_pipeline.note_updated_orders() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  PERFORM leora_pipeline.leave_time();
  -- What differs between before and after, whichever way: an order that moved concerns both of its
  -- customers, and one that got another id is a different one.
  INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
  SELECT DISTINCT "tenantId", "customerId" FROM (
    (SELECT id, "tenantId", "customerId", status, "orderedAt" FROM before_change
     EXCEPT ALL
     SELECT id, "tenantId", "customerId", status, "orderedAt" FROM after_change)
    UNION ALL
    (SELECT id, "tenantId", "customerId", status, "orderedAt" FROM after_change
     EXCEPT ALL
     SELECT id, "tenantId", "customerId", status, "orderedAt" FROM before_change)
  ) AS changed;
  PERFORM leora_pipeline.wake_listeners();
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: updated orders are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION leora_pipeline.note_deleted_orders() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  PERFORM leora_pipeline.leave_time();
  INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
  SELECT DISTINCT "tenantId", "customerId" FROM before_change;
  PERFORM leora_pipeline.wake_listeners();
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: deleted orders are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION leora_pipeline.note_inserted_customers() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  PERFORM leora_pipeline.leave_time();
  INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
  SELECT "tenantId", id FROM after_change;
  PERFORM leora_pipeline.wake_listeners();
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: inserted customers are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION leora_pipeline.note_updated_customers() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
  -- The pipeline's own writes say so, and need not be looked at.
  IF current_setting('leora_pipeline.is_applying', true) = 'on' THEN
    RETURN NULL;
  END IF;
  PERFORM leora_pipeline.leave_time();
  INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id)
  SELECT DISTINCT "tenantId", id FROM (
    (SELECT id, "tenantId", "accountType", "lastOrderDate" FROM before_change
     EXCEPT ALL
     SELECT id, "tenantId", "accountType", "lastOrderDate" FROM after_change)
    UNION ALL
    (SELECT id, "tenantId", "accountType", "lastOrderDate" FROM after_change
     EXCEPT ALL
     SELECT id, "tenantId", "accountType", "lastOrderDate" FROM before_change)
  ) AS changed;
  PERFORM leora_pipeline.wake_listeners();
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: updated customers are left to the nightly run: ' || SQLERRM;
  RETURN NULL;
END
$$;

CREATE FUNCTION leora_pipeline.clock() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
  SELECT date_trunc('milliseconds', clock_timestamp() + interval '999 microseconds')
$$;
COMMENT ON FUNCTION leora_pipeline.clock IS
  'The one clock, rounded up to the millisecond: the CRM stores no finer instant, and one rounded '
  'down could lie before an order that is already there';

DROP FUNCTION leora_pipeline.change_cause;
CREATE FUNCTION leora_pipeline.change_cause(
  p_is_lost boolean, p_is_shifted boolean, p_from_type text, p_to_type text, p_told_type text,
  p_told_order_at timestamptz, p_last_order_at timestamptz, p_path text
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN p_is_lost THEN 'order removed'
    WHEN p_from_type IS DISTINCT FROM p_told_type THEN
      CASE WHEN p_told_type IS NULL THEN p_path ELSE 'by hand' END
    WHEN p_is_shifted THEN 'policy'
    -- Before the orders: at a first look a younger one may be there, and not young enough.
    WHEN leora_pipeline.type_rank(p_to_type) < leora_pipeline.type_rank(p_from_type) THEN 'age'
    WHEN p_last_order_at > p_told_order_at
      OR p_last_order_at IS NOT NULL AND p_told_order_at IS NULL THEN 'order'
    ELSE p_path
  END
$$;
COMMENT ON FUNCTION leora_pipeline.change_cause IS
  'Why a type changes; the path that found it where nothing else explains it';

CREATE FUNCTION leora_pipeline.is_type_withheld(
  p_is_held boolean, p_crm_type text, p_account_type text
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_is_held AND COALESCE(
    leora_pipeline.type_rank(p_account_type) < leora_pipeline.type_rank(p_crm_type), false
  )
$$;
COMMENT ON FUNCTION leora_pipeline.is_type_withheld IS 'Whether a hold stops a lower type';

CREATE FUNCTION leora_pipeline.is_date_withheld(
  p_is_held boolean, p_crm_order_at timestamptz, p_last_order_at timestamptz
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_is_held AND p_crm_order_at IS NOT NULL
    AND COALESCE(p_last_order_at < p_crm_order_at, true)
$$;
COMMENT ON FUNCTION leora_pipeline.is_date_withheld IS 'Whether a hold stops a date that goes back';

CREATE FUNCTION leora_pipeline.overdue_customers(p_tenant_ids uuid[], p_as_of timestamptz)
RETURNS TABLE (tenant_id uuid, customer_id uuid) LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT d.tenant_id, d.customer_id
  FROM leora_pipeline.due_customers(p_tenant_ids, p_as_of) AS d
  WHERE NOT EXISTS (
    SELECT FROM leora_pipeline.set_aside_customer AS a
    WHERE a.tenant_id = d.tenant_id AND a.customer_id = d.customer_id
  )
  UNION ALL
  SELECT a.tenant_id, a.customer_id
  FROM leora_pipeline.set_aside_customer AS a
  WHERE a.tenant_id = ANY (p_tenant_ids) AND a.retry_at <= p_as_of
$$;
COMMENT ON FUNCTION leora_pipeline.overdue_customers IS
  'Customers to refresh though no change is noted: those whom time has outdated, and those who were '
  'set aside and may be tried again';

CREATE FUNCTION leora_pipeline.untold_customers(p_tenant_ids uuid[])
RETURNS TABLE (tenant_id uuid, customer_id uuid) LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT s.tenant_id, s.customer_id
  FROM leora_pipeline.customer_state AS s
  JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
  WHERE s.tenant_id = ANY (p_tenant_ids) AND s.to_tell AND (
    c."accountType" IS NULL
    OR leora_pipeline.type_rank(s.account_type) > leora_pipeline.type_rank(c."accountType"::text)
    OR NOT EXISTS (
      SELECT FROM leora_pipeline.tenant_hold AS h
      WHERE h.tenant_id = s.tenant_id AND h.released_at IS NULL
    )
  ) AND NOT EXISTS (
    SELECT FROM leora_pipeline.set_aside_customer AS a
    WHERE a.tenant_id = s.tenant_id AND a.customer_id = s.customer_id
  )
$$;
COMMENT ON FUNCTION leora_pipeline.untold_customers IS
  'Customers whom the CRM has still to be told about, and may be; of a held tenant, those who rise';

CREATE FUNCTION leora_pipeline.meet_customers(
  p_tenant_id uuid, p_customer_ids uuid[], p_as_of timestamptz
) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = 'force_custom_plan' AS $$
BEGIN
  -- It remembers what the CRM had before the pipeline wrote anything. In the order of ids, as all
  -- locks are taken. Who has a state is left out: to find the conflict, the insert would wait for
  -- whoever changes it.
  INSERT INTO leora_pipeline.customer_state
    (tenant_id, customer_id, account_type, ever_ordered, to_tell, told_type, told_order_at, as_of)
  SELECT
    c."tenantId", c.id, 'PROSPECT', false, false,
    c."accountType"::text, leora_pipeline.usable_date(c."lastOrderDate"),
    COALESCE(p_as_of, leora_pipeline.clock())
  FROM "Customer" AS c
  WHERE c."tenantId" = p_tenant_id AND c.id = ANY (p_customer_ids)
    AND NOT EXISTS (
      SELECT FROM leora_pipeline.customer_state AS s
      WHERE s.tenant_id = c."tenantId" AND s.customer_id = c.id
    )
  ORDER BY c.id
  ON CONFLICT (tenant_id, customer_id) DO NOTHING;
END
$$;
COMMENT ON FUNCTION leora_pipeline.meet_customers IS
  'Gives customers met for the first time a state, so that there is a row to lock';

CREATE FUNCTION leora_pipeline.refresh_locked(
  p_tenant_id uuid, p_customer_ids uuid[], p_locked uuid[], p_as_of timestamptz,
  p_write_dates boolean
) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = 'force_custom_plan' AS $$
DECLARE
  v_as_of timestamptz;
  v_shift_id bigint;
BEGIN
  -- The pending rows that this statement sees of customers who are locked, or gone; what is derived
  -- after it has seen all that they speak of. A row that somebody has claimed is theirs.
  DELETE FROM leora_pipeline.pending_customer AS p
  USING (
    SELECT q.tenant_id, q.pending_id
    FROM leora_pipeline.pending_customer AS q
    WHERE q.tenant_id = p_tenant_id AND (
      q.customer_id = ANY (p_locked)
      OR q.customer_id = ANY (p_customer_ids) AND NOT EXISTS (
        SELECT FROM "Customer" AS c WHERE c."tenantId" = q.tenant_id AND c.id = q.customer_id
      )
    )
    FOR UPDATE OF q SKIP LOCKED
  ) AS seen
  WHERE p.tenant_id = seen.tenant_id AND p.pending_id = seen.pending_id;

  -- Of the locked ones alone: a customer who has come to the tenant since may be somebody else's by
  -- now. Where the CRM need not be told, its type from now on rests on this last order date.
  -- Written as an insert that always finds its row: as an update it would join the states twice,
  -- and while their statistics are young the planner takes them for empty and joins by nested loops.
  -- Which shifts the policy that it derives by has made, is read in the same statement: by one read
  -- before or after it, a policy changed in between would be taken for lost orders.
  v_as_of := COALESCE(p_as_of, leora_pipeline.clock());
  WITH derived AS (
    INSERT INTO leora_pipeline.customer_state AS s
      (tenant_id, customer_id, last_order_at, next_order_at, account_type, imported_order_at,
       ever_ordered, to_tell, told_type, told_order_at, as_of)
    SELECT
      d.tenant_id, d.customer_id, d.last_order_at, d.next_order_at, d.account_type,
      d.imported_order_at, d.ever_ordered, d.differs,
      CASE WHEN d.differs THEN d.told_type ELSE d.crm_type END,
      CASE WHEN d.differs THEN d.told_order_at ELSE d.last_order_at END,
      v_as_of
    FROM (
      SELECT
        e.*,
        leora_pipeline.type_differs(e.crm_type, e.account_type)
          OR leora_pipeline.date_differs(
            e.crm_order_at, e.last_order_at, e.ever_ordered, p_write_dates
          ) AS differs
      FROM (
        SELECT * FROM leora_pipeline.derive_customers(ARRAY[p_tenant_id], p_locked, v_as_of)
        OFFSET 0  -- So that what is derived stands once in the plan: half of the time is planning.
      ) AS e
    ) AS d
    WHERE NOT d.is_current OR d.to_tell IS DISTINCT FROM d.differs OR NOT d.differs AND
      (d.told_type, d.told_order_at) IS DISTINCT FROM (d.crm_type, d.last_order_at)
    ON CONFLICT (tenant_id, customer_id) DO UPDATE SET
      last_order_at = EXCLUDED.last_order_at,
      next_order_at = EXCLUDED.next_order_at,
      account_type = EXCLUDED.account_type,
      imported_order_at = EXCLUDED.imported_order_at,
      ever_ordered = EXCLUDED.ever_ordered,
      to_tell = EXCLUDED.to_tell,
      told_type = EXCLUDED.told_type,
      told_order_at = EXCLUDED.told_order_at,
      as_of = EXCLUDED.as_of,
      is_shifted = s.is_shifted AND EXCLUDED.to_tell AND EXCLUDED.account_type = s.account_type
  )
  SELECT max(f.shift_id) INTO v_shift_id
  FROM leora_pipeline.policy_shift AS f WHERE f.tenant_id = p_tenant_id;

  -- Where a policy has taken the date back behind the one that the CRM's type rests on, it rests on
  -- that of the policy: what goes back behind this one too has been lost. Of several shifts, what
  -- they make together.
  IF v_shift_id IS NOT NULL THEN
    WITH seen AS (
      DELETE FROM leora_pipeline.policy_shift AS f
      WHERE f.tenant_id = p_tenant_id AND f.shift_id <= v_shift_id
        AND f.customer_id = ANY (p_locked)
      RETURNING f.*
    )
    UPDATE leora_pipeline.customer_state AS s
    SET is_shifted = s.account_type = f.type_after,
        told_order_at = CASE
          WHEN s.told_order_at <= f.date_before
            AND s.told_order_at > COALESCE(f.date_after, '-infinity') THEN f.date_after
          ELSE s.told_order_at
        END
    FROM (
      SELECT
        customer_id,
        (array_agg(date_before ORDER BY shift_id))[1] AS date_before,
        (array_agg(date_after ORDER BY shift_id DESC))[1] AS date_after,
        (array_agg(type_after ORDER BY shift_id DESC))[1] AS type_after
      FROM seen
      GROUP BY customer_id
    ) AS f
    WHERE s.tenant_id = p_tenant_id AND s.customer_id = f.customer_id AND s.to_tell;
  END IF;

  -- The states of customers who are gone.
  DELETE FROM leora_pipeline.customer_state AS s
  WHERE s.tenant_id = p_tenant_id AND s.customer_id = ANY (p_locked) AND NOT EXISTS (
    SELECT FROM "Customer" AS c WHERE c."tenantId" = s.tenant_id AND c.id = s.customer_id
  );

  -- Nobody stays set aside of whom the CRM need not be told, or who is gone.
  DELETE FROM leora_pipeline.set_aside_customer AS a
  WHERE a.tenant_id = p_tenant_id AND (
    a.customer_id = ANY (p_locked) AND NOT EXISTS (
      SELECT FROM leora_pipeline.customer_state AS s
      WHERE s.tenant_id = a.tenant_id AND s.customer_id = a.customer_id AND s.to_tell
    )
    OR a.customer_id = ANY (p_customer_ids) AND NOT EXISTS (
      SELECT FROM "Customer" AS c WHERE c."tenantId" = a.tenant_id AND c.id = a.customer_id
    )
  );
END
$$;
COMMENT ON FUNCTION leora_pipeline.refresh_locked IS
  'Derives anew, as of an instant or (null) now, the states that the transaction has locked of the '
  'customers asked for, and deletes what was pending for them';

CREATE FUNCTION leora_pipeline.refresh_customers(
  p_tenant_id uuid, p_customer_ids uuid[], p_as_of timestamptz, p_write_dates boolean
) RETURNS uuid[] LANGUAGE plpgsql SET plan_cache_mode = 'force_custom_plan' AS $$
DECLARE
  v_locked uuid[];
BEGIN
  PERFORM leora_pipeline.meet_customers(p_tenant_id, p_customer_ids, p_as_of);
  -- Passes over those that somebody holds: another refresh, or the CRM's own transaction that called
  -- the hook and may stay open for long.
  SELECT COALESCE(array_agg(l.customer_id), '{}') INTO v_locked FROM (
    SELECT s.customer_id
    FROM leora_pipeline.customer_state AS s
    WHERE s.tenant_id = p_tenant_id AND s.customer_id = ANY (p_customer_ids)
    ORDER BY s.customer_id
    FOR NO KEY UPDATE SKIP LOCKED
  ) AS l;
  PERFORM leora_pipeline.refresh_locked(
    p_tenant_id, p_customer_ids, v_locked, p_as_of, p_write_dates
  );
  RETURN v_locked;
END
$$;
COMMENT ON FUNCTION leora_pipeline.refresh_customers IS
  'Derives customers anew under lock, and returns those whose state was held by nobody else';

CREATE FUNCTION leora_pipeline.lost_customers(
  p_tenant_id uuid, p_customer_ids uuid[], p_as_of timestamptz
) RETURNS uuid[] LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN ARRAY(
    SELECT s.customer_id
    FROM leora_pipeline.tenant_thresholds(ARRAY[p_tenant_id], p_as_of) AS q
    CROSS JOIN leora_pipeline.customer_state AS s
    JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
    WHERE s.tenant_id = p_tenant_id AND s.customer_id = ANY (p_customer_ids)
      AND s.told_order_at > COALESCE(s.last_order_at, '-infinity')
      AND leora_pipeline.is_lost(
        c."accountType"::text, s.account_type, s.told_order_at,
        q.active_since, q.target_since
      )
  );
END
$$;
COMMENT ON FUNCTION leora_pipeline.lost_customers IS
  'Those of some customers whom the CRM would see demoted because an order is gone';

CREATE FUNCTION leora_pipeline.write_customers(
  p_tenant_id uuid, p_customer_ids uuid[], p_as_of timestamptz, p_write_dates boolean,
  p_held boolean, p_run_id text, p_path text
) RETURNS TABLE (
  customer_id uuid, is_written boolean, is_moved boolean, is_withheld boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  v_now timestamptz := leora_pipeline.clock();
BEGIN
  -- Tells the trigger of "Customer" that this is the pipeline's own, and no more than this: the
  -- transaction may be the CRM's. (Not a setting of the function: those a superuser has to allow.)
  PERFORM set_config('leora_pipeline.is_applying', 'on', true);
  -- A held tenant's downward moves are left, to be told another time: a lower type, and a date that
  -- goes back. The enum is computed before the UPDATE, as distributed tables ask for.
  RETURN QUERY
  WITH differing AS (
    SELECT
      c.id,
      c."accountType" AS crm_type,
      c."accountType"::text AS from_type,
      c."lastOrderDate" AS crm_date,
      s.account_type,
      s.last_order_at,
      s.told_type,
      s.told_order_at,
      s.as_of,
      leora_pipeline.type_differs(c."accountType"::text, s.account_type) AS type_differs,
      leora_pipeline.date_differs(
        c."lastOrderDate" AT TIME ZONE 'UTC', s.last_order_at, s.ever_ordered, p_write_dates
      ) AS date_differs,
      leora_pipeline.is_type_withheld(
        p_held, c."accountType"::text, s.account_type
      ) AS is_held_type,
      leora_pipeline.is_date_withheld(
        p_held, c."lastOrderDate" AT TIME ZONE 'UTC', s.last_order_at
      ) AS is_held_date,
      s.is_shifted,
      s.told_order_at > COALESCE(s.last_order_at, '-infinity') AND leora_pipeline.is_lost(
        c."accountType"::text, s.account_type, s.told_order_at,
        q.active_since, q.target_since
      ) AS is_lost
    FROM leora_pipeline.tenant_thresholds(ARRAY[p_tenant_id], COALESCE(p_as_of, v_now)) AS q
    CROSS JOIN leora_pipeline.customer_state AS s
    JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
    WHERE s.tenant_id = p_tenant_id AND s.customer_id = ANY (p_customer_ids)
  ),
  moves AS MATERIALIZED (
    SELECT
      d.*,
      d.type_differs AND NOT d.is_held_type AS writes_type,
      d.date_differs AND NOT d.is_held_date AS writes_date,
      d.type_differs AND d.is_held_type OR d.date_differs AND d.is_held_date AS withheld,
      CASE WHEN d.type_differs AND NOT d.is_held_type THEN d.account_type::"AccountType"
           ELSE d.crm_type END AS new_type,
      CASE WHEN d.date_differs AND NOT d.is_held_date THEN d.last_order_at AT TIME ZONE 'UTC'
           ELSE d.crm_date END AS new_date
    FROM differing AS d
  ),
  written AS (
    UPDATE "Customer" AS c
    SET "accountType" = m.new_type, "lastOrderDate" = m.new_date,
        "updatedAt" = v_now AT TIME ZONE 'UTC'
    FROM moves AS m
    WHERE c."tenantId" = p_tenant_id AND c.id = m.id AND (m.writes_type OR m.writes_date)
  ),
  logged AS (
    INSERT INTO leora_pipeline.account_type_transition
      (tenant_id, customer_id, from_type, to_type, last_order_at, as_of, cause, run_id, recorded_at)
    SELECT
      p_tenant_id, m.id, m.from_type, m.account_type, m.last_order_at, m.as_of,
      leora_pipeline.change_cause(
        m.is_lost, m.is_shifted, m.from_type, m.account_type, m.told_type, m.told_order_at,
        m.last_order_at, p_path
      ),
      p_run_id, v_now
    FROM moves AS m
    WHERE m.writes_type
    ORDER BY m.id
  ),
  told AS (
    UPDATE leora_pipeline.customer_state AS s
    SET to_tell = m.withheld,
        told_type = m.new_type::text,
        told_order_at = CASE WHEN m.withheld THEN s.told_order_at ELSE m.last_order_at END,
        is_shifted = false
    FROM moves AS m
    WHERE s.tenant_id = p_tenant_id AND s.customer_id = m.id AND (m.writes_type OR NOT m.withheld)
  ),
  no_more_set_aside AS (
    DELETE FROM leora_pipeline.set_aside_customer AS a
    USING moves AS m
    WHERE a.tenant_id = p_tenant_id AND a.customer_id = m.id
  )
  SELECT m.id, m.writes_type OR m.writes_date, m.writes_type, m.withheld
  FROM moves AS m;
  PERFORM set_config('leora_pipeline.is_applying', 'off', true);
END
$$;
COMMENT ON FUNCTION leora_pipeline.write_customers IS
  'Writes customers whom the transaction has locked, with their states, where the CRM differs from '
  'the state; logs each change of type, and notes what the CRM is told';

CREATE FUNCTION leora_pipeline.after_order_create(
  p_customer_ids uuid[], p_write_last_order_date boolean DEFAULT true
) RETURNS TABLE (customer_id uuid, outcome text, error text) LANGUAGE plpgsql SECURITY DEFINER
SET lock_timeout = '50ms' SET row_security = off SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
#variable_conflict use_column
DECLARE
  v_tenant_id uuid;
  v_known uuid[];
  v_locked uuid[];
  v_seen uuid[] := '{}';
  v_written uuid[] := '{}';
BEGIN
  -- Only in READ COMMITTED does what is derived see all that was committed before it.
  IF current_setting('transaction_isolation') = 'read committed' THEN
    FOR v_tenant_id, v_known IN
      SELECT c."tenantId", array_agg(c.id) FROM "Customer" AS c
      WHERE c.id = ANY (p_customer_ids) GROUP BY c."tenantId"
    LOOP
      -- Waits for nobody, since this may be the CRM's own transaction, and meets nobody for the
      -- first time: others who meet the customer too would wait for it to end.
      SELECT array_agg(l.customer_id) INTO v_locked FROM (
        SELECT s.customer_id
        FROM leora_pipeline.customer_state AS s
        JOIN "Customer" AS c ON c."tenantId" = s.tenant_id AND c.id = s.customer_id
        WHERE s.tenant_id = v_tenant_id AND s.customer_id = ANY (v_known)
        ORDER BY s.customer_id
        FOR NO KEY UPDATE OF c, s SKIP LOCKED
      ) AS l;
      CONTINUE WHEN v_locked IS NULL;
      PERFORM leora_pipeline.refresh_locked(
        v_tenant_id, v_locked, v_locked, NULL, p_write_last_order_date
      );
      -- Upward alone, as of a held tenant: a demotion is for those who can ask the gate.
      SELECT
        v_seen || COALESCE(array_agg(w.customer_id) FILTER (WHERE NOT w.is_withheld), '{}'),
        v_written || COALESCE(array_agg(w.customer_id) FILTER (WHERE w.is_written), '{}')
      INTO v_seen, v_written
      FROM leora_pipeline.write_customers(
        v_tenant_id, v_locked, NULL, p_write_last_order_date, true, 'after_order_create', 'hook'
      ) AS w;
    END LOOP;
  END IF;
  RETURN QUERY
  SELECT a.customer_id, CASE
    WHEN a.customer_id = ANY (v_written) THEN 'updated'
    WHEN a.customer_id = ANY (v_seen) THEN 'unchanged'
    WHEN EXISTS (SELECT FROM "Customer" AS c WHERE c.id = a.customer_id) THEN 'left'
    ELSE 'unknown'
  END, NULL::text
  FROM (SELECT DISTINCT u.customer_id FROM unnest(p_customer_ids) AS u (customer_id)) AS a;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING
    MESSAGE = 'leora_pipeline: the account types are left to the next run: ' || SQLERRM;
  RETURN QUERY
  SELECT DISTINCT u.customer_id, 'left', split_part(SQLERRM, E'\n', 1)
  FROM unnest(p_customer_ids) AS u (customer_id);
END
$$;
COMMENT ON FUNCTION leora_pipeline.after_order_create IS
  'Brings customers up to date in the transaction of whoever calls it, waiting for nobody and '
  'failing nothing: updated, unchanged, left (to the next run, seconds later), or unknown';

-- It runs as the pipeline's role, so nobody may put other tables in the place of the CRM's; those
-- stand in whatever schema this migration finds them in.
DO $$
DECLARE
  v_schema text;
BEGIN
  SELECT n.nspname INTO v_schema
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.oid = to_regclass('"Customer"');
  EXECUTE 'ALTER FUNCTION leora_pipeline.after_order_create SET search_path = pg_catalog, '
    || COALESCE(quote_ident(v_schema) || ', ', '') || 'pg_temp';
END
$$;
