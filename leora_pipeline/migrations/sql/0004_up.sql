-- Alerts: what people were told is wrong (incident), the messages to be delivered (alert_message, an
-- outbox that is written in the transaction of what it tells), the tenants' own addresses, and which
-- transitions a digest has taken.

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
  'Digests of the URLs that have got it; the URLs themselves hold secrets';
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

-- What became TARGET before there was a digest is no news: it counts as taken. As a default it costs
-- no rewrite of the table.
ALTER TABLE leora_pipeline.account_type_transition
  ADD COLUMN digested_at timestamptz(3) DEFAULT now();
ALTER TABLE leora_pipeline.account_type_transition ALTER COLUMN digested_at DROP DEFAULT;
CREATE INDEX account_type_transition_undigested
  ON leora_pipeline.account_type_transition (tenant_id)
  WHERE to_type = 'TARGET' AND digested_at IS NULL;
COMMENT ON COLUMN leora_pipeline.account_type_transition.digested_at IS
  'When a win-back digest took it; of transitions to TARGET alone';
