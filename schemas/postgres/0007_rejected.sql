-- Records that became dead letters, as the tenant whose key they have may see them: when, where and why, never their bytes. Derived from the
-- log like the rest of schema "view", in the transaction that moves the position past the record. Kept for 30 days.
CREATE TABLE view.rejected (
    org_id        uuid        NOT NULL,
    log_topic     text COLLATE "C" NOT NULL,
    log_partition integer     NOT NULL,
    log_epoch     integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    -- The record's append time on the log, the one clock.
    appended_at   timestamptz NOT NULL,
    error_class   text COLLATE "C" NOT NULL,
    -- A sentence for the tenant: nothing of the inside, and no other tenant.
    message       text        NOT NULL,
    PRIMARY KEY (org_id, log_topic, log_partition, log_epoch, log_offset)
);
-- Read newest first, page by page.
CREATE INDEX rejected_newest ON view.rejected (org_id, appended_at, log_topic, log_partition, log_epoch, log_offset);
CREATE INDEX rejected_age ON view.rejected (appended_at);

-- A record that was written again (redriven, or sent twice under one id) stands at two places of the log, and the view shows one of them. Two
-- deliveries that wait for a verdict under one id share a row: whichever place is shown, that row is the one that is sent.
ALTER TABLE delivery_schedule ADD COLUMN contested boolean NOT NULL DEFAULT false;
