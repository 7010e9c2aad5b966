-- How the deliveries of a replay ended.

ALTER TABLE delivery_schedule
    -- The replay that scheduled its round; NULL: none did.
    ADD COLUMN replay_id uuid;

ALTER TABLE replays
    ADD COLUMN delivered bigint NOT NULL DEFAULT 0,
    ADD COLUMN failed bigint NOT NULL DEFAULT 0;

-- No foreign key: its lock on the replay would wait for the transaction that schedules the next batch.
CREATE TABLE replay_outcomes (
    replay_id uuid    NOT NULL,
    delivered integer NOT NULL,
    failed    integer NOT NULL
);
CREATE INDEX replay_outcomes_replay ON replay_outcomes (replay_id);

COMMENT ON TABLE replay_outcomes IS
    'How many deliveries of a replay ended in one transaction of a dispatcher. Appended, because all dispatchers would '
    'wait for one row; the next batch of the replay, or the sweep, adds them to the replay.';
