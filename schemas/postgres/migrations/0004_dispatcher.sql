-- Webhooks: where events go, and what is still to be sent. Only the dispatcher writes these tables.

CREATE TABLE endpoints (
    id               uuid        PRIMARY KEY,
    org_id           uuid        NOT NULL,
    url              text        NOT NULL,
    -- Patterns; empty: all types.
    event_types      text[]      NOT NULL DEFAULT '{}',
    description      text,
    -- JSON object of header names and values, sealed; NULL: none. Write-only.
    sealed_headers   bytea,
    -- The signing secret, sealed with the endpoint's id; NULL once the endpoint is deleted.
    sealed_secret    bytea,
    -- NULL: the dispatcher's default.
    max_in_flight    integer     CHECK (max_in_flight BETWEEN 1 AND 1000),
    timeout_seconds  integer     NOT NULL CHECK (timeout_seconds BETWEEN 1 AND 30),
    -- Delays before the retries, in seconds: n delays are n retries.
    retry_schedule   integer[]   NOT NULL,
    enabled          boolean     NOT NULL DEFAULT true,
    -- Why it is disabled: 'requested', 'gone' (it answered 410); NULL while enabled.
    disabled_reason  text        CHECK ((disabled_reason IS NULL) = enabled),
    -- The one that clients of older trigger APIs configure by its URL alone.
    is_default       boolean     NOT NULL DEFAULT false,
    -- Value of endpoints_version when this row last changed.
    version          bigint      NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    -- A deleted endpoint stays as a row, so that a process with an older version learns of it and cancels its
    -- deliveries.
    deleted_at       timestamptz
);
CREATE INDEX endpoints_org ON endpoints (org_id, created_at, id) WHERE deleted_at IS NULL;
-- Dispatchers read what changed since the version that they know.
CREATE INDEX endpoints_changed ON endpoints (version);
CREATE UNIQUE INDEX endpoints_default ON endpoints (org_id) WHERE is_default AND deleted_at IS NULL;
-- Erased endpoints have no URL. This index finds the others of an organization, deleted ones included.
CREATE INDEX endpoints_not_erased ON endpoints (org_id) WHERE url <> '';

COMMENT ON TABLE endpoints IS 'Webhook endpoints of organizations.';

CREATE TABLE endpoints_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
);
INSERT INTO endpoints_version (version) VALUES (0);

COMMENT ON TABLE endpoints_version IS
    'One row, raised in the transaction of every change to endpoints. It serializes these transactions: versions become '
    'visible in order and without gaps, so "newer than the one I know" misses nothing.';

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
    -- pending; held (its endpoint is disabled); and the final states delivered, failed, cancelled.
    state         text        NOT NULL CHECK (state IN ('pending', 'held', 'delivered', 'failed', 'cancelled')),
    -- Attempts made so far.
    attempts      integer     NOT NULL DEFAULT 0,
    -- When it may be claimed: the time of the next attempt or, during an attempt, the end of its lease.
    due_at        timestamptz NOT NULL,
    -- Who is making an attempt. Only the holder of the lease may write its outcome.
    lease_id      uuid,
    finished_at   timestamptz CHECK ((finished_at IS NOT NULL) = (state IN ('delivered', 'failed', 'cancelled')))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02); -- Short-lived rows, each changed a few times.
-- Due rows are claimed endpoint by endpoint, so that a thousand rows of a hanging one are not in the way of the others.
CREATE INDEX delivery_schedule_due ON delivery_schedule (endpoint_id, due_at) WHERE state = 'pending';
CREATE INDEX delivery_schedule_held ON delivery_schedule (endpoint_id) WHERE state = 'held';
-- An instance that claims a partition reads which records ahead of its position are scheduled already.
CREATE INDEX delivery_schedule_position ON delivery_schedule (log_partition, log_offset);
CREATE INDEX delivery_schedule_finished ON delivery_schedule (finished_at) WHERE finished_at IS NOT NULL;
-- Erasing an organization reads it.
CREATE INDEX delivery_schedule_org ON delivery_schedule (org_id);

COMMENT ON TABLE delivery_schedule IS
    'Deliveries that the first attempt from the log did not finish. A row holds what sending needs, so it depends '
    'neither on the view nor on what the log still has. A finished row stays until the position has passed its record: '
    'until then, a second reading of the record must find that it is done.';

CREATE TABLE deliveries_awaiting_dedup (
    endpoint_id   uuid        NOT NULL,
    log_epoch     integer     NOT NULL,
    log_partition integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    -- UUIDv5 of endpoint and event: the key of the row in delivery_schedule.
    delivery_id   uuid        NOT NULL,
    org_id        uuid        NOT NULL,
    event_id      uuid        NOT NULL,
    event_type    text        NOT NULL,
    accepted_at   timestamptz NOT NULL,
    -- JSON text, byte for byte.
    payload       text        NOT NULL,
    traceparent   text,
    -- In this order, the rows that a position has passed are one range of the index.
    PRIMARY KEY (log_partition, log_epoch, log_offset, endpoint_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02); -- Short-lived rows.
-- Erasing an organization reads it.
CREATE INDEX deliveries_awaiting_dedup_org ON deliveries_awaiting_dedup (org_id);

COMMENT ON TABLE deliveries_awaiting_dedup IS
    'Deliveries that wait for the duplicate decision on their event, keyed by the record. Two records may have one '
    'event id: each is decided for itself when the view has passed it. The delivery becomes pending if the view shows '
    'the event at exactly this position and no decision calls it a duplicate. Otherwise the row is deleted.';
