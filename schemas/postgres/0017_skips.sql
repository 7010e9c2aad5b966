-- Ranges of the log that an operator had a consumer skip, because nobody could read them. A replay or rebuild for that
-- consumer skips them too. Never deleted: there are few.
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
