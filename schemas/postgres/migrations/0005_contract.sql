-- What one slice may read of the tables of another one: SQL views, a contract like every other.

CREATE SCHEMA contract;
CREATE VIEW contract.organizations AS SELECT id, status FROM organizations;
CREATE VIEW contract.erasures AS SELECT org_id, consumer, done_at FROM erasures;
CREATE VIEW contract.acknowledged AS
    SELECT org_id, event_id, acknowledged_at FROM view.events WHERE acknowledged_at IS NOT NULL;
CREATE VIEW contract.duplicates AS
    SELECT org_id, event_id, canonical_id FROM event_ids WHERE canonical_id <> event_id;
CREATE VIEW contract.dedup_keys AS
    SELECT org_id, kind, key, event_id, body_hash, accepted_at, expires_at FROM dedup_keys;
CREATE VIEW contract.events AS
    SELECT org_id, event_id, event_type, accepted_at, log_epoch, log_partition, log_offset FROM view.events;

-- Time partitions for what arrives before the first materializer runs.
SELECT view_ensure_time_partition('view', now(), 5), view_ensure_time_partition('view', now() + interval '5 days', 5);
