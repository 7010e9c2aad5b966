-- Which record an event id belongs to, and of which event that record is a duplicate. One row per id whose owner the id
-- itself does not say: ids that producers choose, ids that two records name, and duplicates. Ids that ingest makes need
-- none. A decision: a rebuild and a replay read it, and only a first reading writes it.
DROP VIEW contract.verdicts;
DROP TABLE verdicts;
DROP TABLE event_places;
CREATE TABLE event_ids (
    org_id        uuid        NOT NULL,
    event_id      uuid        NOT NULL,
    -- The event that the id resolves to: the id itself, or for a duplicate its original.
    canonical_id  uuid        NOT NULL,
    -- The record that owns the id. Any other record that names it is a duplicate.
    log_epoch     integer     NOT NULL,
    log_partition integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    -- Append time of the newest record that named the id. The row is kept until this is below the retention floor: no
    -- reading of the log takes any of its records then.
    newest_at     timestamptz NOT NULL,
    PRIMARY KEY (org_id, event_id)
);
CREATE INDEX event_ids_newest ON event_ids (newest_at);
CREATE VIEW contract.duplicates AS SELECT org_id, event_id, canonical_id FROM event_ids WHERE canonical_id <> event_id;

-- Which of two reports of one delivery wins: the greater (rank, attempts, last_appended_at). The projector computes it.
ALTER TABLE view.deliveries ADD COLUMN rank smallint NOT NULL DEFAULT 0;
ALTER TABLE view.deliveries ALTER COLUMN rank DROP DEFAULT;
UPDATE view.deliveries SET last_appended_at = last_started_at WHERE last_appended_at IS NULL;
ALTER TABLE view.deliveries ALTER COLUMN last_appended_at SET NOT NULL;

-- Notes the newest of these events per organization and partition as dropped. A reader whose cursor is before it is
-- told of a gap.
CREATE FUNCTION view_note_dropped(orgs uuid[], partitions integer[], epochs integer[], offsets bigint[],
                                  times timestamptz[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO view_dropped AS d (org_id, log_partition, log_epoch, log_offset, accepted_at)
    SELECT DISTINCT ON (org_id, log_partition) org_id, log_partition, log_epoch, log_offset, accepted_at
    FROM UNNEST(orgs, partitions, epochs, offsets, times)
         AS t (org_id, log_partition, log_epoch, log_offset, accepted_at)
    ORDER BY org_id, log_partition, log_epoch DESC, log_offset DESC
    ON CONFLICT (org_id, log_partition) DO UPDATE
       SET log_epoch = EXCLUDED.log_epoch, log_offset = EXCLUDED.log_offset, accepted_at = EXCLUDED.accepted_at
       WHERE (d.log_epoch, d.log_offset) < (EXCLUDED.log_epoch, EXCLUDED.log_offset)
$$;

-- The same for all events of a table that were accepted before a time.
CREATE FUNCTION view_note_dropped_before(events regclass, before timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'SELECT view_note_dropped(array_agg(org_id), array_agg(log_partition), array_agg(log_epoch),
                                  array_agg(log_offset), array_agg(accepted_at))
         FROM (SELECT DISTINCT ON (org_id, log_partition) org_id, log_partition, log_epoch, log_offset, accepted_at
               FROM %s WHERE accepted_at < $1
               ORDER BY org_id, log_partition, log_epoch DESC, log_offset DESC) AS newest', events) USING before;
END
$$;

CREATE OR REPLACE FUNCTION view_drop_part(starts timestamptz, OUT dropped bigint, OUT unacknowledged bigint)
LANGUAGE plpgsql AS $$
DECLARE
    suffix text := to_char(starts AT TIME ZONE 'UTC', 'YYYYMMDD');
    events text := format('view.%I', 'events_' || suffix);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('triggers view parts'));
    IF NOT EXISTS (SELECT FROM view.parts WHERE starts_at = starts) THEN
        RETURN; -- Another instance has dropped it.
    END IF;
    PERFORM view_note_dropped_before(events::regclass, 'infinity');
    EXECUTE format('SELECT count(*), count(*) FILTER (WHERE acknowledged_at IS NULL) FROM %s', events)
        INTO dropped, unacknowledged;
    UPDATE view_floor SET floor = greatest(floor, (SELECT ends_at FROM view.parts WHERE starts_at = starts));
    EXECUTE format('DROP TABLE %s', events);
    EXECUTE format('DROP TABLE view.%I', 'delivery_attempts_' || suffix);
    DELETE FROM view.parts WHERE starts_at = starts;
END
$$;

-- An unfinished rebuild has the tables as they were before, and starts again.
DELETE FROM consumer_positions WHERE consumer = 'materializer-rebuild';
DROP SCHEMA IF EXISTS view_next CASCADE;
