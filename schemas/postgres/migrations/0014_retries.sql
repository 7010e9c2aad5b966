-- Deliveries can be retried by hand, and endpoints tested.

ALTER TABLE delivery_schedule
    -- How often the delivery was retried by hand. The view believes the last round.
    ADD COLUMN round integer NOT NULL DEFAULT 0,
    -- Attempts that were made before the round: the retry schedule of the endpoint starts again with each.
    ADD COLUMN attempts_before integer NOT NULL DEFAULT 0;

-- A test is no record of the log: its row has partition -1, and a number of this sequence as its offset.
CREATE SEQUENCE endpoint_test_numbers;

-- The rank of a report has its round: see the projector of attempts.
CREATE OR REPLACE VIEW contract.deliveries AS
    SELECT org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts, next_attempt_at, last_status_code,
           last_error, last_started_at, created_at, rank / 3 AS round
    FROM view.deliveries;
