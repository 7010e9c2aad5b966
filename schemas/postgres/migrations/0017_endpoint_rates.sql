-- Rates of endpoints, what dispatchers know of endpoints, and endpoints that are disabled by the system.

ALTER TABLE endpoints
    -- Requests per second; NULL: as many as there are.
    ADD COLUMN rate_limit_per_second integer CHECK (rate_limit_per_second BETWEEN 1 AND 1000),
    -- NULL while enabled, and if it was disabled by an earlier version.
    ADD COLUMN disabled_at timestamptz CHECK (disabled_at IS NULL OR NOT enabled);

CREATE TABLE endpoint_conditions (
    endpoint_id      uuid             PRIMARY KEY,
    org_id           uuid             NOT NULL,
    -- When the next request may be sent that no dispatcher has leased yet.
    next_free_at     timestamptz      NOT NULL DEFAULT now(),
    -- The current rate is this share of rate_limit_per_second.
    rate_share       double precision NOT NULL DEFAULT 1 CHECK (rate_share > 0 AND rate_share <= 1),
    -- When the share was last halved.
    reduced_at       timestamptz      NOT NULL DEFAULT '-infinity',
    circuit          text             NOT NULL DEFAULT 'closed' CHECK (circuit IN ('closed', 'open', 'half_open')),
    -- When an open circuit lets one attempt through.
    circuit_retry_at timestamptz,
    -- The endpoint asked for a pause until then.
    stopped_until    timestamptz,
    -- Attempts that may be in flight at the same time; NULL: not known.
    max_in_flight    integer,
    -- The first of the failures since the last success, and the last one, to the minute; NULL: none.
    failing_since    timestamptz,
    last_failed_at   timestamptz      CHECK ((last_failed_at IS NULL) = (failing_since IS NULL)),
    -- The dispatcher that wrote the circuit.
    writer           uuid,
    updated_at       timestamptz      NOT NULL DEFAULT now()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02); -- Each row changes often.
CREATE INDEX endpoint_conditions_updated ON endpoint_conditions (updated_at);
CREATE INDEX endpoint_conditions_org ON endpoint_conditions (org_id);

COMMENT ON TABLE endpoint_conditions IS
    'What dispatchers know of endpoints and share: the places on a rate limit, the current rate, the circuit, and since '
    'when every attempt fails. A row that says nothing any more is deleted an hour after its last change.';

CREATE TABLE system_events (
    event_id   uuid        PRIMARY KEY,
    org_id     uuid        NOT NULL,
    event_type text        NOT NULL,
    -- JSON text.
    payload    text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX system_events_created ON system_events (created_at);

COMMENT ON TABLE system_events IS
    'Events of the system that are not on the log yet. A row is added in the transaction of what it reports. Ingest '
    'appends the event, and deletes the row when Kafka has it. After a crash in between, the log has the event twice, '
    'with one id.';

CREATE TABLE system_event_key (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    key      bytea   NOT NULL CHECK (octet_length(key) = 32)
);
-- 244 random bits. PostgreSQL has no other source of them without an extension.
INSERT INTO system_event_key (key)
VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

COMMENT ON TABLE system_event_key IS
    'The key that signs events of the system on the log, so that no other producer can write one.';

CREATE VIEW contract.system_event_key AS SELECT key FROM system_event_key;
