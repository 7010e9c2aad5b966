-- How far each consumer has read the log.

CREATE TABLE consumer_positions (
    consumer     text        NOT NULL,
    topic        text        NOT NULL,
    partition    integer     NOT NULL,
    -- Rises with every claim of the partition by an instance.
    epoch        bigint      NOT NULL DEFAULT 1,
    -- Rises when an operator accepts that the log is another one. Offsets of different log epochs do not compare.
    log_epoch    integer     NOT NULL DEFAULT 1,
    next_offset  bigint      NOT NULL CHECK (next_offset >= 0),
    -- Append time of the last record that was applied. Lag in seconds is measured from it.
    record_time  timestamptz,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    -- Kafka's id of the topic at the first claim. A topic that is deleted and created again has another one.
    topic_id     uuid,
    -- Highest leader epoch of the records that were read. The log holds the records before the position if, and only
    -- if, it holds that epoch up to the position at least. NULL: unknown, so it is not checked.
    leader_epoch integer     CHECK (leader_epoch >= 0),
    PRIMARY KEY (consumer, topic, partition)
) WITH (fillfactor = 25); -- A few rows, updated many times a second: free space on the page keeps updates in place.

COMMENT ON TABLE consumer_positions IS
    'The next offset of each consumer. It advances in the transaction that writes what the records before it gave. '
    'A writer whose epoch is older matches no row and writes nothing: this makes the view effectively-once. '
    'Offsets committed to Kafka are only a copy for lag tools.';

CREATE TABLE log_skips (
    consumer    text        NOT NULL,
    topic       text        NOT NULL,
    partition   integer     NOT NULL,
    log_epoch   integer     NOT NULL,
    -- From the first offset to before the second.
    from_offset bigint      NOT NULL,
    to_offset   bigint      NOT NULL CHECK (to_offset > from_offset),
    skipped_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, topic, partition, log_epoch, from_offset)
);

COMMENT ON TABLE log_skips IS
    'Ranges that an operator made a consumer skip because nobody could read them. Replay and rebuild skip them too. '
    'Rows are never deleted: there are few.';
