-- Batched delivery: one request carries several events of an endpoint.

ALTER TABLE endpoints
    -- {"max_events", "max_bytes", "max_wait_ms", "format"}; NULL: each request has one event.
    ADD COLUMN batch json;

ALTER TABLE delivery_schedule
    -- The most events that may share the next request of the delivery, since one with more failed. NULL: as many as the
    -- endpoint says.
    ADD COLUMN batch_limit integer;

-- An unfinished rebuild has the old columns. It starts again.
DROP SCHEMA IF EXISTS view_next CASCADE;

-- The webhook-id of a request with a batch of events; NULL: it had one event, and its id.
ALTER TABLE view.delivery_attempts ADD COLUMN batch_id uuid;

CREATE OR REPLACE VIEW contract.delivery_attempts AS
    SELECT org_id, delivery_id, attempt, outcome, started_at, latency_ms, connect_us, send_us, wait_us, status_code,
           error, response_excerpt, remote_address, batch_id
    FROM view.delivery_attempts;
