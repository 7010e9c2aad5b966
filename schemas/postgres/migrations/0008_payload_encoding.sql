-- Binary data of a CloudEvent is kept as its base64 text, a JSON string. The encoding tells it from a string that looks
-- the same: 'base64', or null for a payload that is the producer's JSON.

ALTER TABLE view.events ADD COLUMN payload_encoding text;
ALTER TABLE delivery_schedule ADD COLUMN payload_encoding text;
ALTER TABLE deliveries_awaiting_dedup ADD COLUMN payload_encoding text;
