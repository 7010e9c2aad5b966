-- Ordered endpoints: the deliveries of a lane are attempted one after the other, in the order of the log. Endpoints
-- that acknowledge events.

ALTER TABLE endpoints
    -- Whether its deliveries have lanes.
    ADD COLUMN ordered boolean NOT NULL DEFAULT false,
    -- Whether events are acknowledged when it and all other endpoints that they matched have accepted them.
    ADD COLUMN ack_on_success boolean NOT NULL DEFAULT false;
CREATE INDEX endpoints_ack_on_success ON endpoints (org_id) WHERE ack_on_success AND deleted_at IS NULL;

-- The lane: a UUIDv5 of organization and ordering key. NULL: the delivery waits for no other one.
ALTER TABLE delivery_schedule ADD COLUMN lane uuid;
ALTER TABLE deliveries_awaiting_dedup ADD COLUMN lane uuid;

-- Rows of lanes are found by their lane: a hundred thousand that wait for the first one are not in the way of the rest.
DROP INDEX delivery_schedule_due;
CREATE INDEX delivery_schedule_due ON delivery_schedule (endpoint_id, due_at)
    WHERE state = 'pending' AND refusal IS NULL AND lane IS NULL;
CREATE INDEX delivery_schedule_lane ON delivery_schedule (endpoint_id, lane, log_epoch, log_partition, log_offset)
    WHERE state = 'pending' AND refusal IS NULL AND lane IS NOT NULL;
CREATE INDEX delivery_schedule_lane_in_flight ON delivery_schedule (endpoint_id, lane, due_at)
    WHERE state = 'pending' AND refusal IS NULL AND lane IS NOT NULL AND lease_id IS NOT NULL;
CREATE INDEX deliveries_awaiting_dedup_lane
    ON deliveries_awaiting_dedup (endpoint_id, lane, log_epoch, log_partition, log_offset) WHERE lane IS NOT NULL;

CREATE TABLE ordered_lanes (
    endpoint_id uuid        NOT NULL,
    lane        uuid        NOT NULL,
    org_id      uuid        NOT NULL,
    -- When the first row of the lane can be claimed, or earlier; 'infinity': it waits for a duplicate decision.
    due_at      timestamptz NOT NULL,
    PRIMARY KEY (endpoint_id, lane)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02); -- Short-lived rows, each changed a few times.
CREATE INDEX ordered_lanes_due ON ordered_lanes (endpoint_id, due_at);
-- Erasing an organization reads it.
CREATE INDEX ordered_lanes_org ON ordered_lanes (org_id);

COMMENT ON TABLE ordered_lanes IS
    'Lanes with rows in delivery_schedule. Who adds a row of a lane, finishes one or makes one due earlier lowers '
    'due_at in the same transaction. Who claims the first row of a lane locks the lane here, and deletes it when the '
    'lane has no row.';

CREATE TABLE delivery_successes (
    org_id      uuid        NOT NULL,
    event_id    uuid        NOT NULL,
    -- Endpoints that the event matched.
    matched     integer     NOT NULL,
    -- Those that have accepted it.
    endpoints   uuid[]      NOT NULL,
    accepted_at timestamptz NOT NULL,
    -- When it may be acknowledged if it is complete; later while a dispatcher does so.
    due_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, event_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02); -- Short-lived rows.
CREATE INDEX delivery_successes_complete ON delivery_successes (due_at) WHERE cardinality(endpoints) >= matched;
-- They end with their events.
CREATE INDEX delivery_successes_age ON delivery_successes (accepted_at);

COMMENT ON TABLE delivery_successes IS
    'Which endpoints have accepted an event, in organizations with ack_on_success. A row is written in the transaction '
    'that finishes the delivery, and deleted when the event is acknowledged.';
