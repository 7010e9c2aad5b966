-- Where each consumer stands on the log. A position commits in the same transaction as what was made of the records before it; that, and
-- the epoch, is what makes the view effectively-once: a writer whose epoch was overtaken matches no row and so writes nothing.
-- Kafka's committed offsets are only a copy for lag tools.
CREATE TABLE consumer_positions (
    consumer    text        NOT NULL,
    topic       text        NOT NULL,
    partition   integer     NOT NULL,
    -- Grows with every claim of the partition by an instance.
    epoch       bigint      NOT NULL DEFAULT 1,
    -- Grows when an operator accepts that the topic was recreated or truncated: offsets of different log epochs do not compare.
    log_epoch   integer     NOT NULL DEFAULT 1,
    next_offset bigint      NOT NULL CHECK (next_offset >= 0),
    -- Append time of the last record applied: lag in seconds is measured from it.
    record_time timestamptz,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, topic, partition)
) WITH (fillfactor = 25); -- A few rows, updated many times a second: room on the page keeps the updates in place.
