-- The pipeline's schema. Types of the CRM stand here as text, and nothing here depends on an object
-- of the CRM: its own migrations must never meet ours. Functions that read its tables are strings
-- to PostgreSQL, without a dependency. Every key leads with the tenant.

CREATE TABLE leora_pipeline.tenant_policy (
  tenant_id uuid PRIMARY KEY,
  threshold_unit text NOT NULL CHECK (threshold_unit IN ('day', 'month')),
  active_within integer NOT NULL,
  target_within integer NOT NULL,
  uncounted_statuses text[] NOT NULL,
  healthy_active_min numeric(5, 2) NOT NULL,
  healthy_active_max numeric(5, 2) NOT NULL,
  healthy_target_min numeric(5, 2) NOT NULL,
  healthy_target_max numeric(5, 2) NOT NULL,
  healthy_prospect_min numeric(5, 2) NOT NULL,
  healthy_prospect_max numeric(5, 2) NOT NULL,
  high_churn_below numeric(5, 2) NOT NULL CHECK (high_churn_below BETWEEN 0 AND 100),
  poor_retention_above numeric(5, 2) NOT NULL CHECK (poor_retention_above BETWEEN 0 AND 100),
  future_orders_above numeric(5, 2) NOT NULL CHECK (future_orders_above BETWEEN 0 AND 100),
  gate_percent numeric(5, 2) NOT NULL CHECK (gate_percent BETWEEN 0 AND 100),
  gate_customers integer NOT NULL CHECK (gate_customers >= 0),
  min_customers integer NOT NULL CHECK (min_customers >= 0),
  CONSTRAINT thresholds_ascend CHECK (
    0 < active_within AND active_within < target_within AND target_within <= 36500
  ),
  CONSTRAINT statuses_known CHECK (array_position(uncounted_statuses, NULL) IS NULL),
  CONSTRAINT healthy_ranges CHECK (
    0 <= healthy_active_min AND healthy_active_min <= healthy_active_max
    AND healthy_active_max <= 100
    AND 0 <= healthy_target_min AND healthy_target_min <= healthy_target_max
    AND healthy_target_max <= 100
    AND 0 <= healthy_prospect_min AND healthy_prospect_min <= healthy_prospect_max
    AND healthy_prospect_max <= 100
  )
);
COMMENT ON TABLE leora_pipeline.tenant_policy IS
  'Thresholds of the tenants that do not follow the default; read through effective_policy()';

CREATE TABLE leora_pipeline.customer_state (
  tenant_id uuid NOT NULL,
  customer_id uuid NOT NULL,
  last_order_at timestamptz(3),
  next_order_at timestamptz(3),
  account_type text NOT NULL CHECK (account_type IN ('ACTIVE', 'TARGET', 'PROSPECT')),
  imported_order_at timestamptz(3),
  ever_ordered boolean NOT NULL,
  to_tell boolean NOT NULL,
  told_type text,
  told_order_at timestamptz(3),
  as_of timestamptz(3) NOT NULL,
  PRIMARY KEY (tenant_id, customer_id)
);
CREATE INDEX customer_state_to_tell ON leora_pipeline.customer_state (tenant_id, customer_id)
  WHERE to_tell;
-- The few whose date went back, which is all that the gate has to look at.
CREATE INDEX customer_state_set_back ON leora_pipeline.customer_state (tenant_id)
  WHERE to_tell AND told_order_at > COALESCE(last_order_at, '-infinity');
COMMENT ON TABLE leora_pipeline.customer_state IS 'What the orders say of each customer';
COMMENT ON COLUMN leora_pipeline.customer_state.last_order_at IS
  'Date of the last order that counts, or the imported one of a customer without any';
COMMENT ON COLUMN leora_pipeline.customer_state.next_order_at IS
  'When the next order dated in the future comes due';
COMMENT ON COLUMN leora_pipeline.customer_state.account_type IS 'The type that the rule gives';
COMMENT ON COLUMN leora_pipeline.customer_state.imported_order_at IS
  'The date that the CRM had before the first order that counts; returns when the last one goes';
COMMENT ON COLUMN leora_pipeline.customer_state.ever_ordered IS
  'Whether the customer ever had an order that counts';
COMMENT ON COLUMN leora_pipeline.customer_state.to_tell IS 'Whether the CRM still has to be told';
COMMENT ON COLUMN leora_pipeline.customer_state.told_type IS
  'The type that the CRM had when it last agreed; another one there now was set by hand';
COMMENT ON COLUMN leora_pipeline.customer_state.told_order_at IS
  'The last order date that the CRM''s type rests on; one that went back since marks a lost order';
COMMENT ON COLUMN leora_pipeline.customer_state.as_of IS 'The instant for which this was derived';

CREATE TABLE leora_pipeline.account_type_change (
  run_id text NOT NULL,
  tenant_id uuid NOT NULL,
  customer_id uuid NOT NULL,
  from_type text,
  to_type text NOT NULL,
  last_order_at timestamptz(3),
  reason text NOT NULL,
  PRIMARY KEY (tenant_id, customer_id)
);
COMMENT ON TABLE leora_pipeline.account_type_change IS
  'Where the CRM differs, as of each tenant''s latest plan; from_type = to_type: only the date does';

CREATE TABLE leora_pipeline.account_type_transition (
  tenant_id uuid NOT NULL,
  customer_id uuid NOT NULL,
  transition_id bigint GENERATED ALWAYS AS IDENTITY,
  from_type text,
  to_type text NOT NULL,
  last_order_at timestamptz(3),
  as_of timestamptz(3) NOT NULL,
  cause text NOT NULL,
  run_id text NOT NULL,
  recorded_at timestamptz(3) NOT NULL,
  CHECK (from_type IS DISTINCT FROM to_type),
  PRIMARY KEY (tenant_id, customer_id, transition_id)
);
CREATE INDEX account_type_transition_run
  ON leora_pipeline.account_type_transition (tenant_id, run_id);
CREATE INDEX account_type_transition_lost
  ON leora_pipeline.account_type_transition (tenant_id, recorded_at)
  WHERE cause = 'order removed';
COMMENT ON TABLE leora_pipeline.account_type_transition IS
  'Every change of a type that the pipeline wrote to the CRM';

CREATE TABLE leora_pipeline.tenant_run (
  tenant_id uuid NOT NULL,
  run_id text NOT NULL,
  mode text NOT NULL CHECK (mode IN ('full', 'partial')),
  started_at timestamptz(3) NOT NULL,
  finished_at timestamptz(3),
  status text NOT NULL CHECK (status IN ('running', 'succeeded', 'failed')),
  error text,
  mass_change_allowed boolean NOT NULL,
  CHECK ((status = 'running') = (finished_at IS NULL)),
  CHECK ((status = 'failed') = (error IS NOT NULL)),
  PRIMARY KEY (tenant_id, run_id)
);
CREATE INDEX tenant_run_latest ON leora_pipeline.tenant_run (tenant_id, mode, started_at);

CREATE TABLE leora_pipeline.tenant_hold (
  tenant_id uuid NOT NULL,
  held_at timestamptz(3) NOT NULL,
  run_id text NOT NULL,
  lost_customers integer NOT NULL,
  classified_customers integer NOT NULL,
  released_at timestamptz(3),
  released_by text,
  CHECK ((released_at IS NULL) = (released_by IS NULL)),
  PRIMARY KEY (tenant_id, held_at)
);
CREATE UNIQUE INDEX tenant_hold_active ON leora_pipeline.tenant_hold (tenant_id)
  WHERE released_at IS NULL;
COMMENT ON TABLE leora_pipeline.tenant_hold IS
  'Tenants whose downward moves are stopped; in force while released_at is null';

CREATE TABLE leora_pipeline.health_verdict (
  tenant_id uuid NOT NULL,
  check_name text NOT NULL,
  checked_at timestamptz(3) NOT NULL,
  run_id text,
  severity text NOT NULL CHECK (severity IN ('error', 'warn')),
  status text NOT NULL CHECK (status IN ('passed', 'failed', 'not judged')),
  message text NOT NULL,
  PRIMARY KEY (tenant_id, check_name, checked_at)
);

CREATE TABLE leora_pipeline.account_type_distribution (
  tenant_id uuid NOT NULL,
  day date NOT NULL,
  as_of timestamptz(3) NOT NULL,
  active integer NOT NULL CHECK (active >= 0),
  target integer NOT NULL CHECK (target >= 0),
  prospect integer NOT NULL CHECK (prospect >= 0),
  pinned integer NOT NULL CHECK (pinned >= 0),
  total integer NOT NULL,
  active_pct numeric(5, 2),
  target_pct numeric(5, 2),
  prospect_pct numeric(5, 2),
  CHECK (total = active + target + prospect),
  CHECK ((total = 0) = (active_pct IS NULL)),
  CHECK ((total = 0) = (target_pct IS NULL)),
  CHECK ((total = 0) = (prospect_pct IS NULL)),
  CHECK (abs(active_pct + target_pct + prospect_pct - 100) <= 0.02),
  PRIMARY KEY (tenant_id, day)
);
COMMENT ON TABLE leora_pipeline.account_type_distribution IS
  'Customers by type, a row a tenant and day; pinned ones stand apart and are no part of the rest';
