-- Fewer index entries for each event.

-- An index of all events of the view may take minutes.
SET LOCAL statement_timeout = 0;

-- An unfinished rebuild has the old indexes. It starts again.
DROP SCHEMA IF EXISTS view_next CASCADE;

-- Every event is in one of the two indexes in log order: events_open or this one. A statement that reads all events
-- merges both (`events_in_log_order` in schemas/src/postgres.rs).
CREATE INDEX events_acknowledged ON view.events (org_id, log_partition, log_epoch, log_offset)
    WHERE acknowledged_at IS NOT NULL;
DROP INDEX view.events_position;
CREATE OR REPLACE VIEW contract.events AS
    SELECT org_id, event_id, event_type, accepted_at, log_epoch, log_partition, log_offset, payload, payload_encoding,
           acknowledged_at
    FROM view.events;

-- Ids that ingest makes rise with time, so an index that starts with them grows at its end, whatever the organization.
-- Every statement that finds an event by its id names both columns.
DO $$
DECLARE
    old record;
BEGIN
    FOR old IN SELECT i.indrelid::regclass AS events, i.indexrelid::regclass AS index FROM pg_index i
               WHERE i.indisunique AND i.indrelid IN (SELECT relid FROM pg_partition_tree('view.events')) LOOP
        EXECUTE format('CREATE UNIQUE INDEX ON %s (event_id, org_id)', old.events);
        EXECUTE format('DROP INDEX %s', old.index);
    END LOOP;
END
$$;

-- As before, but for that index.
CREATE OR REPLACE FUNCTION view_create_time_partition(generation text, starts timestamptz, ends timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    suffix   text := to_char(starts AT TIME ZONE 'UTC', 'YYYYMMDD');
    events   text := 'events_' || suffix;
    attempts text := 'delivery_attempts_' || suffix;
BEGIN
    EXECUTE format('CREATE TABLE %1$I.%2$I (LIKE %1$I.events INCLUDING ALL)', generation, events);
    EXECUTE format('CREATE UNIQUE INDEX ON %I.%I (event_id, org_id)', generation, events);
    EXECUTE format('ALTER TABLE %1$I.events ATTACH PARTITION %1$I.%2$I FOR VALUES FROM (%3$L) TO (%4$L)',
                   generation, events, starts, ends);
    EXECUTE format('CREATE TABLE %1$I.%2$I (LIKE %1$I.delivery_attempts INCLUDING ALL)', generation, attempts);
    EXECUTE format('CREATE UNIQUE INDEX ON %I.%I (org_id, delivery_id, attempt, outcome)', generation, attempts);
    EXECUTE format('ALTER TABLE %1$I.delivery_attempts ATTACH PARTITION %1$I.%2$I FOR VALUES FROM (%3$L) TO (%4$L)',
                   generation, attempts, starts, ends);
    EXECUTE format('INSERT INTO %I.time_partitions (starts_at, ends_at) VALUES ($1, $2)', generation) USING starts, ends;
END
$$;
