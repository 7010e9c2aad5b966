-- The view by time: what is past its retention goes as a whole table, not row by row. And the view as a generation: a rebuild makes the
-- next one in a schema of its own and gives it the name "view" when it is done, which makes every statement that was planned before look
-- the name up again.

-- Everything of the view is computed again from the log; these are what a reading of it goes by, and so lie outside.

-- Which record an id belongs to, where the id alone does not say: an id whose own time (UUIDv7) is not of the day of its acceptance, and
-- one that two records named. A record that names it and lies elsewhere is a duplicate. A decision, like a verdict.
CREATE TABLE event_places (
    org_id        uuid        NOT NULL,
    event_id      uuid        NOT NULL,
    log_epoch     integer     NOT NULL,
    log_partition integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    accepted_at   timestamptz NOT NULL,
    PRIMARY KEY (org_id, event_id)
);
CREATE INDEX event_places_age ON event_places (accepted_at);
CREATE INDEX verdicts_age ON verdicts (accepted_at);

-- Records accepted before the floor are no part of the view, whatever the log still holds. It only rises, with each part that is dropped.
CREATE TABLE view_floor (
    only_row boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    floor    timestamptz NOT NULL
);
INSERT INTO view_floor (floor) VALUES ('-infinity');

-- The newest event of each organization and partition that was dropped: whose cursor lies before it has missed something.
CREATE TABLE view_dropped (
    org_id        uuid        NOT NULL,
    log_partition integer     NOT NULL,
    log_epoch     integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    accepted_at   timestamptz NOT NULL,
    PRIMARY KEY (org_id, log_partition)
);

DROP VIEW contract.acknowledged;
DROP VIEW contract.events;
ALTER TABLE view.events RENAME TO events_before;
ALTER TABLE view.delivery_attempts RENAME TO attempts_before;
ALTER INDEX view.events_pkey RENAME TO events_before_pkey;
ALTER INDEX view.events_open RENAME TO events_before_open;
ALTER INDEX view.events_place RENAME TO events_before_place;
ALTER INDEX view.events_troubled RENAME TO events_before_troubled;
ALTER INDEX view.delivery_attempts_pkey RENAME TO attempts_before_pkey;

-- An id is unique within each part (its index is made with the part, because PostgreSQL has no unique index over parts that does not
-- contain the time); over all parts it is by event_places.
CREATE TABLE view.events (
    org_id          uuid        NOT NULL,
    event_id        uuid        NOT NULL,
    log_epoch       integer     NOT NULL,
    log_partition   integer     NOT NULL,
    log_offset      bigint      NOT NULL,
    accepted_at     timestamptz NOT NULL,
    event_type      text COLLATE "C" NOT NULL,
    payload         json        NOT NULL,
    occurred_at     timestamptz,
    source          text,
    ordering_key    text,
    metadata        json,
    dedup_id        text,
    acknowledged_at timestamptz,
    delivery_status text        NOT NULL DEFAULT 'pending',
    attempts        integer     NOT NULL DEFAULT 0
) PARTITION BY RANGE (accepted_at);
CREATE INDEX events_open ON view.events (org_id, log_partition, log_epoch, log_offset) WHERE acknowledged_at IS NULL;
CREATE INDEX events_place ON view.events (org_id, log_partition, log_epoch, log_offset);
CREATE INDEX events_troubled ON view.events (org_id, delivery_status, log_partition, log_epoch, log_offset)
    WHERE delivery_status IN ('retrying', 'failed');

CREATE TABLE view.delivery_attempts (
    org_id           uuid        NOT NULL,
    delivery_id      uuid        NOT NULL,
    attempt          integer     NOT NULL,
    outcome          text        NOT NULL,
    started_at       timestamptz NOT NULL,
    latency_ms       bigint      NOT NULL,
    status_code      integer,
    error            text,
    response_excerpt text,
    -- Append time of its record on the log.
    appended_at      timestamptz NOT NULL
) PARTITION BY RANGE (appended_at);

-- The parts of this generation, the same for events and attempts: [starts_at, ends_at), never overlapping.
CREATE TABLE view.parts (
    starts_at timestamptz PRIMARY KEY,
    ends_at   timestamptz NOT NULL CHECK (ends_at > starts_at)
);
-- Deliveries are one row each, changed by every attempt and found by their id: taken away row by row.
CREATE INDEX deliveries_age ON view.deliveries (last_started_at);

-- Makes the part of a generation that [starts, ends) is, in both tables. Attached when it is complete, which stops neither readers nor writers.
CREATE FUNCTION view_make_part(generation text, starts timestamptz, ends timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    suffix text := to_char(starts AT TIME ZONE 'UTC', 'YYYYMMDD');
BEGIN
    EXECUTE format('CREATE TABLE %1$I.%2$I (LIKE %1$I.events INCLUDING ALL)', generation, 'events_' || suffix);
    EXECUTE format('CREATE UNIQUE INDEX ON %I.%I (org_id, event_id)', generation, 'events_' || suffix);
    EXECUTE format('ALTER TABLE %1$I.events ATTACH PARTITION %1$I.%2$I FOR VALUES FROM (%3$L) TO (%4$L)', generation, 'events_' || suffix, starts, ends);
    EXECUTE format('CREATE TABLE %1$I.%2$I (LIKE %1$I.delivery_attempts INCLUDING ALL)', generation, 'delivery_attempts_' || suffix);
    EXECUTE format('CREATE UNIQUE INDEX ON %I.%I (org_id, delivery_id, attempt, outcome)', generation, 'delivery_attempts_' || suffix);
    EXECUTE format('ALTER TABLE %1$I.delivery_attempts ATTACH PARTITION %1$I.%2$I FOR VALUES FROM (%3$L) TO (%4$L)', generation, 'delivery_attempts_' || suffix, starts, ends);
    EXECUTE format('INSERT INTO %I.parts (starts_at, ends_at) VALUES ($1, $2)', generation) USING starts, ends;
END
$$;

-- Makes room for a record of that time, if there is none: a part of so many days on a fixed grid, shorter where a neighbour is in the way.
-- Whoever comes second waits for the first and finds it done.
CREATE FUNCTION view_make_room(generation text, at timestamptz, days integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    width   interval := make_interval(days => days);
    starts  timestamptz := date_bin(width, at, 'epoch'::timestamptz);
    ends    timestamptz := starts + width;
    covered boolean;
    before  timestamptz;
    behind  timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('triggers view parts'));
    EXECUTE format('SELECT bool_or(starts_at <= $1 AND ends_at > $1), max(ends_at) FILTER (WHERE ends_at <= $1), min(starts_at) FILTER (WHERE starts_at > $1) FROM %I.parts', generation)
        INTO covered, before, behind USING at;
    IF NOT COALESCE(covered, false) AND at >= (SELECT floor FROM view_floor) THEN
        PERFORM view_make_part(generation, greatest(starts, before), least(ends, behind));
    END IF;
END
$$;

-- Drops the part of "view" that begins there, with all its events, and raises the floor behind it. Answers how many events went, and how many
-- of them nobody had acknowledged. What is looked up is looked up before the tables are locked.
CREATE FUNCTION view_drop_part(starts timestamptz, OUT dropped bigint, OUT unacknowledged bigint) LANGUAGE plpgsql AS $$
DECLARE
    suffix text := to_char(starts AT TIME ZONE 'UTC', 'YYYYMMDD');
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('triggers view parts'));
    IF NOT EXISTS (SELECT FROM view.parts WHERE starts_at = starts) THEN
        RETURN; -- Somebody else was here.
    END IF;
    EXECUTE format(
        'INSERT INTO view_dropped AS d (org_id, log_partition, log_epoch, log_offset, accepted_at)
         SELECT DISTINCT ON (org_id, log_partition) org_id, log_partition, log_epoch, log_offset, accepted_at FROM view.%I
         ORDER BY org_id, log_partition, log_epoch DESC, log_offset DESC
         ON CONFLICT (org_id, log_partition) DO UPDATE
            SET log_epoch = EXCLUDED.log_epoch, log_offset = EXCLUDED.log_offset, accepted_at = EXCLUDED.accepted_at
            WHERE (d.log_epoch, d.log_offset) < (EXCLUDED.log_epoch, EXCLUDED.log_offset)', 'events_' || suffix);
    EXECUTE format('SELECT count(*), count(*) FILTER (WHERE acknowledged_at IS NULL) FROM view.%I', 'events_' || suffix) INTO dropped, unacknowledged;
    UPDATE view_floor SET floor = greatest(floor, (SELECT ends_at FROM view.parts WHERE starts_at = starts));
    EXECUTE format('DROP TABLE view.%I', 'events_' || suffix);
    EXECUTE format('DROP TABLE view.%I', 'delivery_attempts_' || suffix);
    DELETE FROM view.parts WHERE starts_at = starts;
END
$$;

-- What was there already moves over: a part for each grid cell that has rows. Ids whose time is of another day are told their place.
DO $$
DECLARE
    at timestamptz;
BEGIN
    FOR at IN SELECT DISTINCT date_bin('5 days', accepted_at, 'epoch') FROM view.events_before
              UNION SELECT DISTINCT date_bin('5 days', started_at, 'epoch') FROM view.attempts_before LOOP
        PERFORM view_make_room('view', at, 5);
    END LOOP;
END
$$;
INSERT INTO view.events SELECT * FROM view.events_before;
INSERT INTO view.delivery_attempts SELECT *, started_at FROM view.attempts_before ON CONFLICT DO NOTHING;
INSERT INTO event_places (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at)
SELECT org_id, event_id, log_epoch, log_partition, log_offset, accepted_at FROM view.events_before
WHERE substr(event_id::text, 15, 1) <> '7'
   OR div(('x' || translate(substr(event_id::text, 1, 13), '-', ''))::bit(48)::bigint, 86400000)
      <> div((extract(epoch FROM accepted_at) * 1000)::bigint, 86400000);
DROP TABLE view.events_before;
DROP TABLE view.attempts_before;

CREATE VIEW contract.acknowledged AS SELECT org_id, event_id, acknowledged_at FROM view.events WHERE acknowledged_at IS NOT NULL;
CREATE VIEW contract.events AS SELECT org_id, event_id, event_type, accepted_at, log_epoch, log_partition, log_offset FROM view.events;

-- Room for what arrives before the first materializer runs.
SELECT view_make_room('view', now(), 5), view_make_room('view', now() + interval '5 days', 5);
