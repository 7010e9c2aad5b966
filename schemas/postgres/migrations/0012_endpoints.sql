-- Endpoints: loops of webhooks end.

-- Through how many webhooks the event came.
ALTER TABLE delivery_schedule ADD COLUMN hops integer NOT NULL DEFAULT 0;
ALTER TABLE deliveries_awaiting_dedup ADD COLUMN hops integer NOT NULL DEFAULT 0;
