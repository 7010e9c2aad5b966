-- Replays of events to an endpoint: those that it never got, or all of them. Until now only failed deliveries could be
-- replayed.

ALTER TABLE replays
    DROP CONSTRAINT replays_only_status_check,
    -- failed: deliveries that failed. missing: events without a delivery to the endpoint. all: all events.
    ADD CONSTRAINT replays_only_status_check CHECK (only_status IN ('failed', 'missing', 'all')),
    -- Of events, the times are those of their acceptance. NULL: until the replay started.
    ALTER COLUMN created_before DROP NOT NULL,
    -- The record that it starts from, appended at created_from. NULL: the time alone counts.
    ADD COLUMN from_partition integer,
    ADD COLUMN from_offset bigint,
    -- starting: the ends of the log are not noted yet. log: the dispatcher and the view have not reached them. reports:
    -- the view has not reached the reports of attempts until then. scheduling: it reads the view.
    ADD COLUMN stage text NOT NULL DEFAULT 'scheduling'
        CHECK (stage IN ('starting', 'log', 'reports', 'scheduling')),
    -- It waits until less of the organization is open.
    ADD COLUMN is_held_back boolean NOT NULL DEFAULT false,
    -- The last event that was looked at; its acceptance time is cursor_created_at.
    ADD COLUMN cursor_log_partition integer,
    ADD COLUMN cursor_log_epoch integer,
    ADD COLUMN cursor_log_offset bigint,
    ADD CHECK ((from_partition IS NULL) = (from_offset IS NULL)),
    ADD CHECK ((cursor_log_partition IS NULL) = (cursor_log_offset IS NULL)
               AND (cursor_log_partition IS NULL) = (cursor_log_epoch IS NULL));

COMMENT ON TABLE replays IS
    'Deliveries of endpoints that are retried in bulk, and events that are sent to endpoints again or late. Any '
    'dispatcher schedules the next batch, and moves the cursor in the same transaction.';

CREATE TABLE replay_log_ends (
    replay_id   uuid    NOT NULL REFERENCES replays (id) ON DELETE CASCADE,
    consumer    text    NOT NULL,
    topic       text    NOT NULL,
    partition   integer NOT NULL,
    -- Log epoch of the consumer when the end was noted.
    log_epoch   integer NOT NULL,
    log_end     bigint  NOT NULL,
    -- A log without records has no end to reach.
    has_records boolean NOT NULL,
    PRIMARY KEY (replay_id, consumer, topic, partition)
);

COMMENT ON TABLE replay_log_ends IS
    'Where the logs ended when a running replay of events started. It schedules nothing before these consumers have '
    'reached the ends, and reads the events before the ends only: later ones are matched when they are read from the '
    'log.';
