-- The inbox view. Everything in schema "view" is computed from the log and can be computed again; what is a decision rather than a
-- derivation (which of two duplicates is the original) lives outside it, so that a rebuild reads it and never decides again.
CREATE SCHEMA view;

CREATE TABLE view.events (
    org_id          uuid        NOT NULL,
    event_id        uuid        NOT NULL,
    log_epoch       integer     NOT NULL,
    log_partition   integer     NOT NULL,
    log_offset      bigint      NOT NULL,
    -- The record's append time on the log, the one clock.
    accepted_at     timestamptz NOT NULL,
    event_type      text COLLATE "C" NOT NULL,
    -- "json" keeps the producer's text byte for byte; "jsonb" would not, and costs a third of the insert rate.
    payload         json        NOT NULL,
    occurred_at     timestamptz,
    source          text,
    ordering_key    text,
    metadata        json,
    dedup_id        text,
    acknowledged_at timestamptz,
    -- Aggregate over the event's deliveries: pending, retrying, delivered, failed.
    delivery_status text        NOT NULL DEFAULT 'pending',
    attempts        integer     NOT NULL DEFAULT 0,
    -- Every key begins with the organization: no record can touch another tenant's row.
    PRIMARY KEY (org_id, event_id)
);

-- The inbox reads this one: what is open, in log order, so that a page touches about as many rows as it returns.
CREATE INDEX events_open ON view.events (org_id, log_partition, log_epoch, log_offset) WHERE acknowledged_at IS NULL;
-- The same with acknowledged events.
CREATE INDEX events_place ON view.events (org_id, log_partition, log_epoch, log_offset);
-- Retrying and failed are few: reading them costs the same however many events there are.
CREATE INDEX events_troubled ON view.events (org_id, delivery_status, log_partition, log_epoch, log_offset)
    WHERE delivery_status IN ('retrying', 'failed');

-- One row per delivery (an event's way to one endpoint), as the last attempt left it.
CREATE TABLE view.deliveries (
    org_id           uuid        NOT NULL,
    delivery_id      uuid        NOT NULL,
    event_id         uuid        NOT NULL,
    endpoint_id      uuid        NOT NULL,
    event_type       text COLLATE "C" NOT NULL,
    status           text        NOT NULL,
    attempts         integer     NOT NULL,
    last_started_at  timestamptz NOT NULL,
    last_status_code integer,
    last_error       text,
    next_attempt_at  timestamptz,
    created_at       timestamptz NOT NULL,
    PRIMARY KEY (org_id, delivery_id)
);
CREATE INDEX deliveries_event ON view.deliveries (org_id, event_id);
CREATE INDEX deliveries_endpoint ON view.deliveries (org_id, endpoint_id, created_at);

CREATE TABLE view.delivery_attempts (
    org_id           uuid        NOT NULL,
    delivery_id      uuid        NOT NULL,
    attempt          integer     NOT NULL,
    outcome          text        NOT NULL,
    started_at       timestamptz NOT NULL,
    latency_ms       bigint      NOT NULL,
    status_code      integer,
    error            text,
    response_excerpt text,
    PRIMARY KEY (org_id, delivery_id, attempt, outcome)
);

-- Acks that were read before their event, and marks of attempts that were. They are applied when the event's id appears.
CREATE TABLE view.pending_effects (
    org_id        uuid        NOT NULL,
    event_id      uuid        NOT NULL,
    -- 'ack' or 'attempt'.
    effect        text        NOT NULL,
    log_partition integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    -- Place within the record: a JSON ack may name many events.
    item          integer     NOT NULL DEFAULT 0,
    appended_at   timestamptz NOT NULL,
    PRIMARY KEY (org_id, event_id, effect, log_partition, log_offset, item)
);
CREATE INDEX pending_effects_age ON view.pending_effects (appended_at);

-- What an organization used to name its events, and which event has the name. Not partitioned by time: a name past its window is
-- overwritten by the upsert and otherwise swept in small batches.
CREATE TABLE dedup_keys (
    org_id      uuid        NOT NULL,
    kind        text        NOT NULL,
    key         text COLLATE "C" NOT NULL,
    event_id    uuid        NOT NULL,
    body_hash   text        NOT NULL,
    accepted_at timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (org_id, kind, key)
);
CREATE INDEX dedup_keys_expiry ON dedup_keys (expires_at);

-- This record is a duplicate of that event. A decision: kept for as long as the log keeps the record, and never taken again.
CREATE TABLE verdicts (
    org_id        uuid        NOT NULL,
    event_id      uuid        NOT NULL,
    original_id   uuid        NOT NULL,
    log_epoch     integer     NOT NULL,
    log_partition integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    accepted_at   timestamptz NOT NULL,
    PRIMARY KEY (org_id, event_id)
);
CREATE INDEX verdicts_place ON verdicts (log_partition, log_epoch, log_offset);
