-- What can be seen of deliveries: how long each part of an attempt took, where it went, and lists of deliveries.

-- An unfinished rebuild has the old columns. It starts again.
DROP SCHEMA IF EXISTS view_next CASCADE;

-- Parts of latency_ms, microseconds; NULL: not known.
ALTER TABLE view.delivery_attempts ADD COLUMN connect_us bigint;
ALTER TABLE view.delivery_attempts ADD COLUMN send_us bigint;
ALTER TABLE view.delivery_attempts ADD COLUMN wait_us bigint;
-- Only a public one.
ALTER TABLE view.delivery_attempts ADD COLUMN remote_address text;

-- Endpoints that matched the event when it was read from the log; NULL: not known.
ALTER TABLE view.deliveries ADD COLUMN endpoints_matched integer;

-- Deliveries of an endpoint are listed newest first. There are few states, so a list of all of them merges one range of
-- the index for each; a list of types one for each type and state.
CREATE INDEX deliveries_endpoint_status ON view.deliveries (org_id, endpoint_id, status, created_at, delivery_id);
CREATE INDEX deliveries_endpoint_type
    ON view.deliveries (org_id, endpoint_id, event_type, status, created_at, delivery_id);
DROP INDEX view.deliveries_endpoint;

-- The same for those that were not tried yet, of which the view knows nothing.
CREATE INDEX delivery_schedule_untried ON delivery_schedule (org_id, endpoint_id, accepted_at, delivery_id)
    WHERE attempts = 0 AND state = 'pending';
CREATE INDEX delivery_schedule_untried_type
    ON delivery_schedule (org_id, endpoint_id, event_type, accepted_at, delivery_id)
    WHERE attempts = 0 AND state = 'pending';
-- Deliveries of an event; erasing an organization reads them too.
CREATE INDEX delivery_schedule_event ON delivery_schedule (org_id, event_id);
DROP INDEX delivery_schedule_org;
CREATE INDEX deliveries_awaiting_dedup_event ON deliveries_awaiting_dedup (org_id, event_id);
DROP INDEX deliveries_awaiting_dedup_org;

CREATE VIEW contract.deliveries AS
    SELECT org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts, next_attempt_at, last_status_code,
           last_error, last_started_at, created_at
    FROM view.deliveries;
CREATE VIEW contract.delivery_attempts AS
    SELECT org_id, delivery_id, attempt, outcome, started_at, latency_ms, connect_us, send_us, wait_us, status_code,
           error, response_excerpt, remote_address
    FROM view.delivery_attempts;
