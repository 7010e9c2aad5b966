-- Which of Kafka's logs a position is in, so that offsets of another log are never taken for this one's.
ALTER TABLE consumer_positions
    -- Kafka's id of the topic when the position was first claimed: a topic that is deleted and created again has another one.
    ADD COLUMN topic_id uuid,
    -- Highest leader epoch of the records that were read. The log holds the records before the position if, and only if,
    -- it holds that epoch up to the position at least. NULL: not known, so it is not checked.
    ADD COLUMN leader_epoch integer CHECK (leader_epoch >= 0);
