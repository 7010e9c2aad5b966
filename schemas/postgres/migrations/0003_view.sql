-- The inbox. Tables in schema "view" are computed from the log and can be computed again: a rebuild makes them a second
-- time in schema "view_next" and then renames it. Decisions, which are not computed, are outside of that schema, so
-- that a rebuild reads them. Only the materializer writes these tables.

CREATE SCHEMA view;

CREATE TABLE view.events (
    org_id          uuid        NOT NULL,
    event_id        uuid        NOT NULL,
    log_epoch       integer     NOT NULL,
    log_partition   integer     NOT NULL,
    log_offset      bigint      NOT NULL,
    -- Append time of the record, the only clock.
    accepted_at     timestamptz NOT NULL,
    event_type      text COLLATE "C" NOT NULL,
    -- json keeps the producer's text byte for byte. jsonb would not, and costs a third of the insert rate.
    payload         json        NOT NULL,
    occurred_at     timestamptz,
    source          text,
    ordering_key    text,
    metadata        json,
    dedup_id        text,
    acknowledged_at timestamptz,
    -- Over all deliveries of the event: pending, retrying, delivered, failed.
    delivery_status text        NOT NULL DEFAULT 'pending',
    attempts        integer     NOT NULL DEFAULT 0
) PARTITION BY RANGE (accepted_at);
-- The inbox reads this index: unacknowledged events in log order, so a page reads about as many rows as it returns.
CREATE INDEX events_open ON view.events (org_id, log_partition, log_epoch, log_offset) WHERE acknowledged_at IS NULL;
-- The same with acknowledged events.
CREATE INDEX events_position ON view.events (org_id, log_partition, log_epoch, log_offset);
-- Retrying and failed events are few. Reading them costs the same however many events there are.
CREATE INDEX events_failed_or_retrying ON view.events (org_id, delivery_status, log_partition, log_epoch, log_offset)
    WHERE delivery_status IN ('retrying', 'failed');

COMMENT ON TABLE view.events IS
    'The events of the inbox. An id is unique within each time partition (its index is created with it, since a unique '
    'index over all of them would need the time); over all time partitions, event_ids decides.';

CREATE TABLE view.deliveries (
    org_id           uuid        NOT NULL,
    delivery_id      uuid        NOT NULL,
    event_id         uuid        NOT NULL,
    endpoint_id      uuid        NOT NULL,
    event_type       text COLLATE "C" NOT NULL,
    status           text        NOT NULL,
    attempts         integer     NOT NULL,
    last_started_at  timestamptz NOT NULL,
    last_status_code integer,
    last_error       text,
    next_attempt_at  timestamptz,
    created_at       timestamptz NOT NULL,
    -- Append time of the report that the row shows.
    last_appended_at timestamptz NOT NULL,
    -- Which of two reports wins: the one with the greater (rank, attempts, last_appended_at). The projector computes
    -- it.
    rank             smallint    NOT NULL,
    PRIMARY KEY (org_id, delivery_id)
);
CREATE INDEX deliveries_event ON view.deliveries (org_id, event_id);
CREATE INDEX deliveries_endpoint ON view.deliveries (org_id, endpoint_id, created_at);
CREATE INDEX deliveries_age ON view.deliveries (last_started_at);

COMMENT ON TABLE view.deliveries IS
    'One row per event and endpoint, as its last attempt left it. Not partitioned: each attempt updates the row by id.';

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
    -- Append time of its report.
    appended_at      timestamptz NOT NULL
) PARTITION BY RANGE (appended_at);

COMMENT ON TABLE view.delivery_attempts IS 'Every attempt that a dispatcher reported.';

CREATE TABLE view.pending_effects (
    org_id        uuid        NOT NULL,
    event_id      uuid        NOT NULL,
    -- 'ack' or 'attempt'.
    effect        text        NOT NULL,
    log_partition integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    -- Index within the record: a JSON ack may name many events.
    item          integer     NOT NULL DEFAULT 0,
    appended_at   timestamptz NOT NULL,
    PRIMARY KEY (org_id, event_id, effect, log_partition, log_offset, item)
);
CREATE INDEX pending_effects_age ON view.pending_effects (appended_at);

COMMENT ON TABLE view.pending_effects IS
    'Acks and attempt reports that came before their event. They are applied when an event with that id appears.';

CREATE TABLE view.time_partitions (
    starts_at timestamptz PRIMARY KEY,
    ends_at   timestamptz NOT NULL CHECK (ends_at > starts_at)
);

COMMENT ON TABLE view.time_partitions IS
    'The time partitions of view.events and view.delivery_attempts, which have the same ones: [starts_at, ends_at).';

-- Decisions and what readers go by.

CREATE TABLE dedup_keys (
    org_id      uuid        NOT NULL,
    kind        text        NOT NULL,
    key         text COLLATE "C" NOT NULL,
    event_id    uuid        NOT NULL,
    body_hash   text        NOT NULL,
    accepted_at timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (org_id, kind, key)
);
CREATE INDEX dedup_keys_expiry ON dedup_keys (expires_at);

COMMENT ON TABLE dedup_keys IS
    'Which event has a dedup key. Not partitioned by time: the upsert overwrites an expired key, and the sweep deletes '
    'the others in small batches.';

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
    -- reader of the log takes any of its records then.
    newest_at     timestamptz NOT NULL,
    PRIMARY KEY (org_id, event_id)
);
CREATE INDEX event_ids_newest ON event_ids (newest_at);

COMMENT ON TABLE event_ids IS
    'Which record an event id belongs to, and of which event that record is a duplicate. One row for each id that does '
    'not say so itself: ids that producers choose, ids that two records name, and duplicates. Ids of ingest need none. '
    'These are decisions: only a first reading writes them; replay and rebuild read them.';

CREATE TABLE rejected (
    log_topic     text COLLATE "C" NOT NULL,
    log_partition integer     NOT NULL,
    log_epoch     integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    -- The tenant that may see it: an active organization at that time.
    org_id        uuid,
    -- Append time of the record.
    appended_at   timestamptz NOT NULL,
    error_class   text COLLATE "C" NOT NULL,
    -- A sentence for the tenant: no internals, and nothing of other tenants.
    message       text        NOT NULL,
    PRIMARY KEY (log_topic, log_partition, log_epoch, log_offset)
);
-- Read newest first, page by page.
CREATE INDEX rejected_newest ON rejected (org_id, appended_at, log_topic, log_partition, log_epoch, log_offset)
    WHERE org_id IS NOT NULL;
CREATE INDEX rejected_age ON rejected (appended_at);

COMMENT ON TABLE rejected IS
    'Records that became dead letters: when, where and why, never their bytes. A decision: such a record stays rejected '
    'when the log is read again. A redrive brings it back as a new record.';

CREATE TABLE retention_floor (
    only_row boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    floor    timestamptz NOT NULL
);
INSERT INTO retention_floor (floor) VALUES ('-infinity');

COMMENT ON TABLE retention_floor IS
    'Records accepted before the floor are not part of the view, whatever the log still holds. It only rises.';

CREATE TABLE retention_gaps (
    org_id        uuid        NOT NULL,
    log_partition integer     NOT NULL,
    log_epoch     integer     NOT NULL,
    log_offset    bigint      NOT NULL,
    accepted_at   timestamptz NOT NULL,
    PRIMARY KEY (org_id, log_partition)
);

COMMENT ON TABLE retention_gaps IS
    'The newest dropped event of each organization and partition. A reader whose cursor is before it has missed it.';

-- Records the newest of these events per organization and partition as dropped.
CREATE FUNCTION view_record_gaps(orgs uuid[], partitions integer[], epochs integer[], offsets bigint[],
                                 times timestamptz[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO retention_gaps AS g (org_id, log_partition, log_epoch, log_offset, accepted_at)
    SELECT DISTINCT ON (org_id, log_partition) org_id, log_partition, log_epoch, log_offset, accepted_at
    FROM UNNEST(orgs, partitions, epochs, offsets, times)
         AS t (org_id, log_partition, log_epoch, log_offset, accepted_at)
    ORDER BY org_id, log_partition, log_epoch DESC, log_offset DESC
    ON CONFLICT (org_id, log_partition) DO UPDATE
       SET log_epoch = EXCLUDED.log_epoch, log_offset = EXCLUDED.log_offset, accepted_at = EXCLUDED.accepted_at
       WHERE (g.log_epoch, g.log_offset) < (EXCLUDED.log_epoch, EXCLUDED.log_offset)
$$;

-- The same for all events of a table that were accepted before a time.
CREATE FUNCTION view_record_gaps_before(events regclass, before timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'SELECT view_record_gaps(array_agg(org_id), array_agg(log_partition), array_agg(log_epoch),
                                 array_agg(log_offset), array_agg(accepted_at))
         FROM (SELECT DISTINCT ON (org_id, log_partition) org_id, log_partition, log_epoch, log_offset, accepted_at
               FROM %s WHERE accepted_at < $1
               ORDER BY org_id, log_partition, log_epoch DESC, log_offset DESC) AS newest', events) USING before;
END
$$;

-- Creates the time partition [starts, ends) of both tables in a generation of the view. A table is attached when it is
-- complete, which blocks neither readers nor writers.
CREATE FUNCTION view_create_time_partition(generation text, starts timestamptz, ends timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    suffix   text := to_char(starts AT TIME ZONE 'UTC', 'YYYYMMDD');
    events   text := 'events_' || suffix;
    attempts text := 'delivery_attempts_' || suffix;
BEGIN
    EXECUTE format('CREATE TABLE %1$I.%2$I (LIKE %1$I.events INCLUDING ALL)', generation, events);
    EXECUTE format('CREATE UNIQUE INDEX ON %I.%I (org_id, event_id)', generation, events);
    EXECUTE format('ALTER TABLE %1$I.events ATTACH PARTITION %1$I.%2$I FOR VALUES FROM (%3$L) TO (%4$L)',
                   generation, events, starts, ends);
    EXECUTE format('CREATE TABLE %1$I.%2$I (LIKE %1$I.delivery_attempts INCLUDING ALL)', generation, attempts);
    EXECUTE format('CREATE UNIQUE INDEX ON %I.%I (org_id, delivery_id, attempt, outcome)', generation, attempts);
    EXECUTE format('ALTER TABLE %1$I.delivery_attempts ATTACH PARTITION %1$I.%2$I FOR VALUES FROM (%3$L) TO (%4$L)',
                   generation, attempts, starts, ends);
    EXECUTE format('INSERT INTO %I.time_partitions (starts_at, ends_at) VALUES ($1, $2)', generation) USING starts, ends;
END
$$;

-- Creates a time partition for a record of that time if there is none: so many days on a fixed grid, shorter next to
-- an existing one. A second caller waits for the first and finds it done.
CREATE FUNCTION view_ensure_time_partition(generation text, at timestamptz, days integer)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    width     interval := make_interval(days => days);
    starts    timestamptz := date_bin(width, at, 'epoch'::timestamptz);
    ends      timestamptz := starts + width;
    covered   boolean;
    previous  timestamptz;
    following timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('triggers time partitions'));
    EXECUTE format('SELECT bool_or(starts_at <= $1 AND ends_at > $1), max(ends_at) FILTER (WHERE ends_at <= $1),
                           min(starts_at) FILTER (WHERE starts_at > $1) FROM %I.time_partitions', generation)
        INTO covered, previous, following USING at;
    IF NOT COALESCE(covered, false) AND at >= (SELECT floor FROM retention_floor) THEN
        PERFORM view_create_time_partition(generation, greatest(starts, previous), least(ends, following));
    END IF;
END
$$;

-- Drops the time partition of "view" that starts there, with all its events, and raises the floor to its end. Returns
-- how many events were dropped, and how many of them were not acknowledged. Everything that is read is read before the
-- tables are locked.
CREATE FUNCTION view_drop_time_partition(starts timestamptz, OUT dropped bigint, OUT unacknowledged bigint)
LANGUAGE plpgsql AS $$
DECLARE
    suffix text := to_char(starts AT TIME ZONE 'UTC', 'YYYYMMDD');
    events text := format('view.%I', 'events_' || suffix);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('triggers time partitions'));
    IF NOT EXISTS (SELECT FROM view.time_partitions WHERE starts_at = starts) THEN
        RETURN; -- Another instance has dropped it.
    END IF;
    PERFORM view_record_gaps_before(events::regclass, 'infinity');
    EXECUTE format('SELECT count(*), count(*) FILTER (WHERE acknowledged_at IS NULL) FROM %s', events)
        INTO dropped, unacknowledged;
    UPDATE retention_floor
    SET floor = greatest(floor, (SELECT ends_at FROM view.time_partitions WHERE starts_at = starts));
    EXECUTE format('DROP TABLE %s', events);
    EXECUTE format('DROP TABLE view.%I', 'delivery_attempts_' || suffix);
    DELETE FROM view.time_partitions WHERE starts_at = starts;
END
$$;

-- Creates schema "view_next" with the tables and time partitions of "view", empty. Tables that a later migration adds
-- to the view are among them.
CREATE FUNCTION view_create_next() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    relation record;
BEGIN
    CREATE SCHEMA view_next;
    FOR relation IN SELECT c.oid, c.relname, c.relkind FROM pg_class c
                    WHERE c.relnamespace = 'view'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition LOOP
        EXECUTE format('CREATE TABLE view_next.%1$I (LIKE view.%1$I INCLUDING ALL)', relation.relname)
            || CASE WHEN relation.relkind = 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(relation.oid) ELSE '' END;
    END LOOP;
    PERFORM view_create_time_partition('view_next', starts_at, ends_at) FROM view.time_partitions;
END
$$;

-- Renames "view_next" to "view". Views of schema "contract" are bound to the old tables, so they are created again. The
-- old tables stay as "view_retired"; the caller drops them.
CREATE FUNCTION view_switch() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    contracts text[] := ARRAY(SELECT format('CREATE OR REPLACE VIEW contract.%I AS %s', relname, pg_get_viewdef(oid))
                              FROM pg_class WHERE relnamespace = 'contract'::regnamespace AND relkind = 'v');
    statement text;
BEGIN
    ALTER SCHEMA view RENAME TO view_retired;
    ALTER SCHEMA view_next RENAME TO view;
    FOREACH statement IN ARRAY contracts LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
