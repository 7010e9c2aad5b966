-- Webhooks: where events go, and what is still to be sent. Written by the dispatcher slice alone.

CREATE TABLE endpoints (
    id                   uuid        PRIMARY KEY,
    org_id               uuid        NOT NULL,
    url                  text        NOT NULL,
    -- Patterns; empty: all types.
    event_types          text[]      NOT NULL DEFAULT '{}',
    description          text,
    -- JSON object of header names and values, sealed; null: none. Write-only.
    sealed_headers       bytea,
    -- The signing secret, sealed under the endpoint's id; null once the endpoint is deleted.
    sealed_secret        bytea,
    -- Null: the dispatcher's default.
    max_in_flight        integer     CHECK (max_in_flight BETWEEN 1 AND 1000),
    timeout_seconds      integer     NOT NULL CHECK (timeout_seconds BETWEEN 1 AND 30),
    -- Delays before the retries, seconds: n delays are n retries.
    retry_schedule       integer[]   NOT NULL,
    enabled              boolean     NOT NULL DEFAULT true,
    -- Why it is disabled: 'requested', 'gone' (it answered 410); null while enabled.
    disabled_reason      text        CHECK ((disabled_reason IS NULL) = enabled),
    -- The one that clients of older trigger APIs set by its URL alone.
    is_default           boolean     NOT NULL DEFAULT false,
    -- Value of endpoints_version when this row was last changed.
    version              bigint      NOT NULL,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    -- A deleted endpoint stays as a row, so that who knows an older version learns of it and its waiting deliveries are cancelled.
    deleted_at           timestamptz
);
CREATE INDEX endpoints_org ON endpoints (org_id, created_at, id) WHERE deleted_at IS NULL;
-- Dispatchers read what changed since the version they know.
CREATE INDEX endpoints_changed ON endpoints (version);
CREATE UNIQUE INDEX endpoints_default ON endpoints (org_id) WHERE is_default AND deleted_at IS NULL;

-- One row. Raised in the transaction of every change to endpoints, which makes those transactions take turns: versions become visible in
-- their order and without gaps, so "newer than the one I know" misses nothing.
CREATE TABLE endpoints_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
);
INSERT INTO endpoints_version (version) VALUES (0);

-- Deliveries that the first pass over the log did not finish. A row holds what sending needs, so it depends neither on the view nor on
-- what the log still keeps. Finished rows stay until the dispatcher's position has passed their record: until then a second reading of the
-- record must find that it is done.
CREATE TABLE delivery_schedule (
    delivery_id   uuid        PRIMARY KEY,
    org_id        uuid        NOT NULL,
    event_id      uuid        NOT NULL,
    endpoint_id   uuid        NOT NULL,
    event_type    text        NOT NULL,
    accepted_at   timestamptz NOT NULL,
    -- JSON text, byte for byte.
    payload       text        NOT NULL,
    traceparent   text,
    log_epoch     integer     NOT NULL,
    log_partition integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    -- pending; awaiting_verdict (is its event a duplicate?); held (its endpoint is disabled); and the ends: delivered, failed, cancelled,
    -- dropped (its event was a duplicate, or is not in the view).
    state         text        NOT NULL
                  CHECK (state IN ('pending', 'awaiting_verdict', 'held', 'delivered', 'failed', 'cancelled', 'dropped')),
    -- Attempts made so far.
    attempts      integer     NOT NULL DEFAULT 0,
    -- When somebody may take it: the next attempt's time or, while one is being made, the end of its lease.
    due_at        timestamptz NOT NULL,
    -- Who is making an attempt; only that one may write its outcome.
    lease_id      uuid,
    finished_at   timestamptz CHECK ((finished_at IS NOT NULL) = (state IN ('delivered', 'failed', 'cancelled', 'dropped')))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02); -- Short-lived rows, each changed a few times.
-- Due rows are taken endpoint by endpoint, so that a thousand rows of one that hangs are not in the way of the others.
CREATE INDEX delivery_schedule_due ON delivery_schedule (endpoint_id, due_at) WHERE state = 'pending';
CREATE INDEX delivery_schedule_held ON delivery_schedule (endpoint_id) WHERE state = 'held';
CREATE INDEX delivery_schedule_awaiting ON delivery_schedule (log_partition, log_offset) WHERE state = 'awaiting_verdict';
-- Whoever claims a partition reads which records ahead of its position were scheduled before.
CREATE INDEX delivery_schedule_place ON delivery_schedule (log_partition, log_offset);
CREATE INDEX delivery_schedule_finished ON delivery_schedule (finished_at) WHERE finished_at IS NOT NULL;
