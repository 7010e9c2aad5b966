-- Deliveries that wait for the duplicate decision on their event have a table of their own, keyed by the record. Two
-- records may have one event id; each is decided for itself when the view has passed it. The delivery becomes pending
-- if the view shows the event at exactly this position and no decision calls it a duplicate; otherwise its row is
-- deleted. At most one record of an event id is shown, so a delivery becomes pending once.
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
    -- In this order: the rows that a position has passed are one range of the index.
    PRIMARY KEY (log_partition, log_epoch, log_offset, endpoint_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02); -- Short-lived rows.
-- Erasing an organization reads it.
CREATE INDEX deliveries_awaiting_dedup_org ON deliveries_awaiting_dedup (org_id);

DELETE FROM delivery_schedule WHERE state IN ('awaiting_verdict', 'dropped');
DROP INDEX delivery_schedule_awaiting;
-- pending; held (its endpoint is disabled); and the final states delivered, failed, cancelled.
ALTER TABLE delivery_schedule
    DROP COLUMN places,
    DROP CONSTRAINT delivery_schedule_state_check,
    DROP CONSTRAINT delivery_schedule_check,
    ADD CONSTRAINT delivery_schedule_state_check
        CHECK (state IN ('pending', 'held', 'delivered', 'failed', 'cancelled')),
    ADD CONSTRAINT delivery_schedule_check
        CHECK ((finished_at IS NOT NULL) = (state IN ('delivered', 'failed', 'cancelled')));
DROP FUNCTION schedule_places_merged;
DROP FUNCTION schedule_places;

-- The dispatcher erases the endpoints of an organization itself. From the tombstone on it sends nothing to them: the
-- statement that reads endpoints_version also reads which organizations with endpoints are being erased.
DROP TRIGGER organizations_erase_endpoints ON organizations;
DROP FUNCTION endpoints_erase;
-- Erased endpoints have no URL; this index finds the others of an organization, deleted ones included.
CREATE INDEX endpoints_not_erased ON endpoints (org_id) WHERE url <> '';
