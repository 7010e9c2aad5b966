-- The schedule of webhooks at scale: the payload of an event is stored once and not once per delivery; one row per
-- endpoint says when something of it is due, so that finding it costs the same however many rows wait; and what an
-- organization has open is counted, so that it can be bounded.

CREATE TABLE delivery_events (
    log_partition     integer NOT NULL,
    log_epoch         integer NOT NULL,
    log_offset        bigint  NOT NULL,
    org_id            uuid    NOT NULL,
    -- JSON text, byte for byte.
    payload           text    NOT NULL,
    payload_encoding  text,
    traceparent       text,
    -- Through how many webhooks the event came.
    hops              integer NOT NULL DEFAULT 0,
    -- Endpoints that matched the event when it was read from the log; NULL: not known.
    endpoints_matched integer,
    PRIMARY KEY (log_partition, log_epoch, log_offset)
) WITH (autovacuum_vacuum_scale_factor = 0.02); -- Short-lived rows.
-- Erasing an organization reads it.
CREATE INDEX delivery_events_org ON delivery_events (org_id);

COMMENT ON TABLE delivery_events IS
    'What requests need of events that have rows in delivery_schedule, once per record. Deleted with the last of these '
    'rows. It is not read from the view: webhooks are retried while no materializer runs.';

INSERT INTO delivery_events (log_partition, log_epoch, log_offset, org_id, payload, payload_encoding, traceparent)
SELECT DISTINCT ON (log_partition, log_epoch, log_offset) log_partition, log_epoch, log_offset, org_id, payload,
       payload_encoding, traceparent
FROM delivery_schedule WHERE finished_at IS NULL;

CREATE TABLE endpoint_queues (
    endpoint_id uuid        PRIMARY KEY,
    org_id      uuid        NOT NULL,
    -- When a row of the endpoint can be claimed, or earlier; 'infinity': none waits, or the endpoint is disabled.
    next_due_at timestamptz NOT NULL,
    -- The endpoint is disabled: its rows wait until it is enabled.
    is_held     boolean     NOT NULL DEFAULT false,
    -- When it was last enabled. Its rows have the time of a schedule from then on.
    resumed_at  timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02); -- Each row changes often.
CREATE INDEX endpoint_queues_due ON endpoint_queues (next_due_at) WHERE next_due_at < 'infinity';
CREATE INDEX endpoint_queues_org ON endpoint_queues (org_id);

COMMENT ON TABLE endpoint_queues IS
    'When something of an endpoint is due in delivery_schedule. Who adds a row or makes one due earlier lowers '
    'next_due_at in the same transaction. Who claims rows locks the row here first: two instances never claim of one '
    'endpoint at the same time.';

INSERT INTO endpoint_queues (endpoint_id, org_id, next_due_at, is_held)
SELECT endpoint_id, (array_agg(org_id))[1],
       CASE WHEN bool_or(state = 'held') THEN 'infinity' ELSE min(due_at) END, bool_or(state = 'held')
FROM delivery_schedule WHERE state IN ('pending', 'held') GROUP BY endpoint_id;

CREATE TABLE delivery_usage (
    org_id      uuid   PRIMARY KEY,
    -- Unfinished rows of delivery_schedule and deliveries_awaiting_dedup.
    open_rows   bigint NOT NULL,
    -- Bytes of payloads in delivery_events.
    event_bytes bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02); -- Each row changes often.

COMMENT ON TABLE delivery_usage IS 'What an organization has open, changed in the transactions that change the rows.';

INSERT INTO delivery_usage (org_id, open_rows, event_bytes)
SELECT org_id, sum(open_rows), sum(event_bytes)
FROM (SELECT org_id, count(*) AS open_rows, 0 AS event_bytes FROM delivery_schedule WHERE finished_at IS NULL GROUP BY 1
      UNION ALL SELECT org_id, count(*), 0 FROM deliveries_awaiting_dedup GROUP BY 1
      UNION ALL SELECT org_id, 0, sum(octet_length(payload)) FROM delivery_events GROUP BY 1) AS counted
GROUP BY org_id;

DROP INDEX delivery_schedule_held;
UPDATE delivery_schedule SET state = 'pending' WHERE state = 'held';
ALTER TABLE delivery_schedule
    DROP COLUMN payload,
    DROP COLUMN payload_encoding,
    DROP COLUMN traceparent,
    DROP CONSTRAINT delivery_schedule_state_check,
    ADD CONSTRAINT delivery_schedule_state_check CHECK (state IN ('pending', 'delivered', 'failed', 'cancelled')),
    ADD COLUMN created_at timestamptz NOT NULL DEFAULT now(),
    -- Why no attempt is made any more: the delivery is reported as failed. Such a row may have no event.
    ADD COLUMN refusal text;
DROP INDEX delivery_schedule_due;
-- Due rows are claimed endpoint by endpoint, so that a thousand rows of a hanging one are not in the way of the others.
CREATE INDEX delivery_schedule_due ON delivery_schedule (endpoint_id, due_at) WHERE state = 'pending' AND refusal IS NULL;
CREATE INDEX delivery_schedule_refused ON delivery_schedule (due_at) WHERE state = 'pending' AND refusal IS NOT NULL;
-- Schedules end, oldest first.
CREATE INDEX delivery_schedule_age ON delivery_schedule (created_at, delivery_id)
    WHERE state = 'pending' AND refusal IS NULL;

-- When its duplicate decision is made, the event is in the view: the payload is read there.
ALTER TABLE deliveries_awaiting_dedup
    DROP COLUMN payload,
    DROP COLUMN payload_encoding,
    ADD COLUMN hops integer NOT NULL DEFAULT 0,
    ADD COLUMN endpoints_matched integer;

CREATE OR REPLACE VIEW contract.events AS
    SELECT org_id, event_id, event_type, accepted_at, log_epoch, log_partition, log_offset, payload, payload_encoding
    FROM view.events;
CREATE VIEW contract.retention_floor AS SELECT floor FROM retention_floor;
