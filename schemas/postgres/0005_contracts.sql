-- What one slice may read of another's tables: SQL views, a contract like every other. Nobody reads the tables behind them.
CREATE SCHEMA contract;

CREATE VIEW contract.organizations AS SELECT id, status FROM organizations;
CREATE VIEW contract.acknowledged AS SELECT org_id, event_id, acknowledged_at FROM view.events WHERE acknowledged_at IS NOT NULL;
CREATE VIEW contract.verdicts AS SELECT org_id, event_id, original_id FROM verdicts;
CREATE VIEW contract.dedup_keys AS SELECT org_id, kind, key, event_id, body_hash, accepted_at, expires_at FROM dedup_keys;
CREATE VIEW contract.events AS SELECT org_id, event_id, event_type, accepted_at, log_epoch, log_partition, log_offset FROM view.events;
