-- The pipeline's schema. Types of the CRM stand here as text, and nothing here depends on an object
-- of the CRM: nothing here may block its own migrations. Functions that read its tables are strings
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
  needs_sync boolean NOT NULL,
  synced_type text,
  synced_order_at timestamptz(3),
  reclassified_by_policy boolean NOT NULL DEFAULT false,
  as_of timestamptz(3) NOT NULL,
  error text,
  failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
  quarantined_at timestamptz(3),
  retry_at timestamptz(3),
  CHECK (num_nulls(error, quarantined_at, retry_at, NULLIF(failures, 0)) IN (0, 4)),
  PRIMARY KEY (tenant_id, customer_id)
);
CREATE INDEX customer_state_needs_sync ON leora_pipeline.customer_state (tenant_id, customer_id)
  WHERE needs_sync;
-- The few whose date went back, which is all that the gate has to look at.
CREATE INDEX customer_state_set_back ON leora_pipeline.customer_state (tenant_id)
  WHERE needs_sync AND synced_order_at > COALESCE(last_order_at, '-infinity');
CREATE INDEX customer_state_by_date
  ON leora_pipeline.customer_state (tenant_id, account_type, last_order_at);
CREATE INDEX customer_state_next_order ON leora_pipeline.customer_state (tenant_id, next_order_at)
  WHERE next_order_at IS NOT NULL;
CREATE INDEX customer_state_quarantined ON leora_pipeline.customer_state (tenant_id, retry_at)
  WHERE retry_at IS NOT NULL;
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
COMMENT ON COLUMN leora_pipeline.customer_state.needs_sync IS 'Whether the CRM differs and has to be written';
COMMENT ON COLUMN leora_pipeline.customer_state.synced_type IS
  'The type that the CRM had when it last agreed; another one there now was set by hand';
COMMENT ON COLUMN leora_pipeline.customer_state.synced_order_at IS
  'The last order date that the CRM''s type rests on; one that went back since marks order loss';
COMMENT ON COLUMN leora_pipeline.customer_state.reclassified_by_policy IS
  'Whether the type is what a change of the tenant''s policy made of it, and still unsynced';
COMMENT ON COLUMN leora_pipeline.customer_state.as_of IS 'The instant for which this was derived';
COMMENT ON COLUMN leora_pipeline.customer_state.error IS
  'Why the CRM''s database refused to have the customer written; null where it did not';
COMMENT ON COLUMN leora_pipeline.customer_state.failures IS 'How often in a row it refused';
COMMENT ON COLUMN leora_pipeline.customer_state.quarantined_at IS 'When it refused first';
COMMENT ON COLUMN leora_pipeline.customer_state.retry_at IS
  'When the customer is tried again; until then it is kept apart from the others';

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
  digested_at timestamptz(3),
  CHECK (from_type IS DISTINCT FROM to_type),
  PRIMARY KEY (tenant_id, customer_id, transition_id)
);
CREATE INDEX account_type_transition_run
  ON leora_pipeline.account_type_transition (tenant_id, run_id);
CREATE INDEX account_type_transition_order_loss
  ON leora_pipeline.account_type_transition (tenant_id, recorded_at)
  WHERE cause = 'order removed';
CREATE INDEX account_type_transition_undigested
  ON leora_pipeline.account_type_transition (tenant_id)
  WHERE to_type = 'TARGET' AND digested_at IS NULL;
COMMENT ON TABLE leora_pipeline.account_type_transition IS
  'Every change of a type that the pipeline wrote to the CRM';
COMMENT ON COLUMN leora_pipeline.account_type_transition.digested_at IS
  'When a win-back digest took it; of transitions to TARGET alone';

CREATE TABLE leora_pipeline.tenant_run (
  tenant_id uuid NOT NULL,
  run_id text NOT NULL,
  mode text NOT NULL CHECK (mode IN ('full', 'incremental', 'partial')),
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
  order_loss_customers integer NOT NULL,
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
CREATE VIEW leora_pipeline.hold_in_force AS
  SELECT tenant_id, held_at, run_id, order_loss_customers, classified_customers
  FROM leora_pipeline.tenant_hold
  WHERE released_at IS NULL;
COMMENT ON VIEW leora_pipeline.hold_in_force IS 'The holds in force, at most one a tenant';

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
  total integer NOT NULL GENERATED ALWAYS AS (active + target + prospect) STORED,
  -- Of a tenant without customers they are null. (A generated column may not name another.)
  active_pct numeric(5, 2)
    GENERATED ALWAYS AS (100.0 * active / NULLIF(active + target + prospect, 0)) STORED,
  target_pct numeric(5, 2)
    GENERATED ALWAYS AS (100.0 * target / NULLIF(active + target + prospect, 0)) STORED,
  prospect_pct numeric(5, 2)
    GENERATED ALWAYS AS (100.0 * prospect / NULLIF(active + target + prospect, 0)) STORED,
  PRIMARY KEY (tenant_id, day)
);
COMMENT ON TABLE leora_pipeline.account_type_distribution IS
  'Customers by type, a row a tenant and day; pinned ones stand apart and are no part of the rest';

-- Change capture: an append-only table of customers to look at, filled by the triggers. Several rows
-- a customer, no unique key, no foreign key: a session that writes to the CRM only adds rows, and waits for none.

CREATE TABLE leora_pipeline.pending_customer (
  tenant_id uuid NOT NULL,
  pending_id bigint GENERATED ALWAYS AS IDENTITY,
  customer_id uuid NOT NULL,
  captured_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, pending_id)
) WITH (
  -- A queue lives on being vacuumed: rows die as fast as they come.
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 10000,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 1000
);
COMMENT ON TABLE leora_pipeline.pending_customer IS
  'Captured changes of customers, until a refresh has taken them';

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

-- Append-only like pending_customer: a change of a policy waits for no run. One change of a tenant's
-- policy commits after the other, so that reclassification_id shows which of them a run has seen.
CREATE TABLE leora_pipeline.policy_reclassification (
  tenant_id uuid NOT NULL,
  reclassification_id bigint GENERATED ALWAYS AS IDENTITY,
  customer_id uuid NOT NULL,
  type_before text NOT NULL,
  type_after text NOT NULL,
  date_before timestamptz(3),
  date_after timestamptz(3),
  PRIMARY KEY (tenant_id, reclassification_id)
);
CREATE INDEX policy_reclassification_customer ON leora_pipeline.policy_reclassification (tenant_id, customer_id);
COMMENT ON TABLE leora_pipeline.policy_reclassification IS
  'What a change of a tenant''s policy made of a customer, type and last order date, until a refresh '
  'has taken it over: no order is missing';

-- Not a tenant's, and never joined with what is.
CREATE TABLE leora_pipeline.listener (
  listener_id text PRIMARY KEY,
  started_at timestamptz(3) NOT NULL,
  seen_at timestamptz(3) NOT NULL,
  wants_notify boolean NOT NULL
);
COMMENT ON TABLE leora_pipeline.listener IS
  'The real-time workers that run; one not seen for 30 seconds was killed';

-- Alerts: what people were notified of (incident), the messages to be delivered (alert_message, an
-- outbox that is written in the transaction of what it reports), and the tenants' own addresses.

CREATE TABLE leora_pipeline.incident (
  tenant_id uuid NOT NULL,
  incident_id bigint GENERATED ALWAYS AS IDENTITY,
  tenant_slug text NOT NULL,
  kind text NOT NULL,
  severity text NOT NULL CHECK (severity IN ('error', 'warn')),
  message text NOT NULL,
  opened_at timestamptz(3) NOT NULL,
  resolved_at timestamptz(3),
  PRIMARY KEY (tenant_id, incident_id)
);
CREATE UNIQUE INDEX incident_open ON leora_pipeline.incident (tenant_id, kind)
  WHERE resolved_at IS NULL;
COMMENT ON TABLE leora_pipeline.incident IS
  'What was wrong with a tenant, from when to when; open while resolved_at is null';

CREATE TABLE leora_pipeline.alert_message (
  tenant_id uuid NOT NULL,
  message_id bigint GENERATED ALWAYS AS IDENTITY,
  incident_id bigint,
  kind text NOT NULL,
  event text NOT NULL CHECK (event IN ('opened', 'reminder', 'resolved', 'win_back')),
  severity text NOT NULL CHECK (severity IN ('error', 'warn', 'info')),
  title text NOT NULL,
  body text NOT NULL,
  created_at timestamptz(3) NOT NULL,
  delivered_to text[] NOT NULL DEFAULT '{}',
  delivered_at timestamptz(3),
  sent_at timestamptz(3),
  expired_at timestamptz(3),
  attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  retry_at timestamptz(3) NOT NULL,
  last_error text,
  CHECK ((event = 'win_back') = (incident_id IS NULL)),
  CHECK (sent_at IS NULL OR expired_at IS NULL),
  PRIMARY KEY (tenant_id, message_id)
);
CREATE INDEX alert_message_unsent ON leora_pipeline.alert_message (tenant_id, retry_at)
  WHERE sent_at IS NULL AND expired_at IS NULL;
CREATE INDEX alert_message_incident ON leora_pipeline.alert_message (tenant_id, incident_id);
COMMENT ON TABLE leora_pipeline.alert_message IS
  'Messages to be delivered; waiting while sent_at and expired_at are null';
COMMENT ON COLUMN leora_pipeline.alert_message.delivered_to IS
  'Fingerprints of the URLs that have got it; the URLs themselves hold secrets';
COMMENT ON COLUMN leora_pipeline.alert_message.delivered_at IS
  'When the latest of them got it';
COMMENT ON COLUMN leora_pipeline.alert_message.sent_at IS 'When all of them had got it';
COMMENT ON COLUMN leora_pipeline.alert_message.expired_at IS
  'When it was given up, as news that is too old';

CREATE TABLE leora_pipeline.tenant_alert_url (
  tenant_id uuid NOT NULL,
  url text NOT NULL,
  PRIMARY KEY (tenant_id, url)
);
COMMENT ON TABLE leora_pipeline.tenant_alert_url IS
  'Where a tenant''s messages go besides LEORA_ALERT_URLS; holds secrets';
