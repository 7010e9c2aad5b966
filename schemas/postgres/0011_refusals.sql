-- What was refused is a decision, like a verdict: a record that nobody could read then, or whose organization was not there, stays refused when
-- the log is read again, whatever can be read by then. It comes back by being redriven, as a record of its own. So the table leaves the schema
-- that a rebuild makes anew, and knows the place also of records that no tenant may see.
CREATE TABLE rejected (
    log_topic     text COLLATE "C" NOT NULL,
    log_partition integer     NOT NULL,
    log_epoch     integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    -- Whose tenants may see it: an active organization when it was refused.
    org_id        uuid,
    -- The record's append time on the log, the one clock.
    appended_at   timestamptz NOT NULL,
    error_class   text COLLATE "C" NOT NULL,
    -- A sentence for the tenant: nothing of the inside, and no other tenant.
    message       text        NOT NULL,
    PRIMARY KEY (log_topic, log_partition, log_epoch, log_offset)
);
-- Read newest first, page by page.
CREATE INDEX rejected_newest ON rejected (org_id, appended_at, log_topic, log_partition, log_epoch, log_offset) WHERE org_id IS NOT NULL;
CREATE INDEX rejected_age ON rejected (appended_at);
INSERT INTO rejected (log_topic, log_partition, log_epoch, log_offset, org_id, appended_at, error_class, message)
SELECT log_topic, log_partition, log_epoch, log_offset, org_id, appended_at, error_class, message FROM view.rejected ON CONFLICT DO NOTHING;
DROP TABLE view.rejected;

-- A rebuild that was interrupted begins anew: it was made for the tables as they were.
DROP SCHEMA IF EXISTS view_next CASCADE;
DELETE FROM consumer_positions WHERE consumer = 'materializer-rebuild';
