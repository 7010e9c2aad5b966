-- Deliveries can be retried by hand, and endpoints tested.

ALTER TABLE delivery_schedule
    -- How often the delivery was retried by hand. The view believes the last round.
    ADD COLUMN round integer NOT NULL DEFAULT 0,
    -- Attempts that were made before the round: the retry schedule of the endpoint starts again with each.
    ADD COLUMN attempts_before integer NOT NULL DEFAULT 0;

-- A test is no record of the log: its row has partition -1, and a number of this sequence as its offset.
CREATE SEQUENCE endpoint_test_numbers;

-- The rank of a report has its round: see the projector of attempts.
CREATE OR REPLACE VIEW contract.deliveries AS
    SELECT org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts, next_attempt_at, last_status_code,
           last_error, last_started_at, created_at, rank / 3 AS round
    FROM view.deliveries;

CREATE TABLE replays (
    id                 uuid        PRIMARY KEY,
    org_id             uuid        NOT NULL,
    endpoint_id        uuid        NOT NULL,
    -- Which deliveries: those that failed.
    only_status        text        NOT NULL CHECK (only_status = 'failed'),
    -- Created from then on, and before then; NULL: from the oldest on.
    created_from       timestamptz,
    created_before     timestamptz NOT NULL,
    -- NULL: all.
    event_types        text[],
    status             text        NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'finished', 'cancelled')),
    matched            bigint      NOT NULL DEFAULT 0,
    scheduled          bigint      NOT NULL DEFAULT 0,
    -- The last delivery that was looked at.
    cursor_created_at  timestamptz,
    cursor_delivery_id uuid,
    -- When its next batch is due.
    next_at            timestamptz NOT NULL DEFAULT now(),
    created_at         timestamptz NOT NULL DEFAULT now(),
    ended_at           timestamptz,
    CHECK ((status = 'running') = (ended_at IS NULL))
);
CREATE INDEX replays_running ON replays (next_at) WHERE status = 'running';
CREATE UNIQUE INDEX replays_running_endpoint ON replays (endpoint_id) WHERE status = 'running';
CREATE INDEX replays_org ON replays (org_id);
CREATE INDEX replays_ended ON replays (ended_at) WHERE ended_at IS NOT NULL;

COMMENT ON TABLE replays IS
    'Deliveries of endpoints that are retried in bulk. Any dispatcher schedules the next batch, and moves the cursor in '
    'the same transaction.';
