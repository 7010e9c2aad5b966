-- The schema as it is now: the sum of the migrations beside this file, whose comments say what each column means.
-- Written by `make schema`; a test compares both. Not run by the product.

-- Functions come before the tables that they read.
SET check_function_bodies = false;

CREATE SCHEMA contract;
CREATE SCHEMA view;
CREATE FUNCTION public.audit_append(org uuid, actor text, key uuid, action text, target uuid, detail jsonb, address text, request text) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    of_key boolean := actor = 'key';
    next_number bigint;
BEGIN
    INSERT INTO audit_counts AS c (org_id, by_keys, by_others) VALUES (org, of_key::integer, (NOT of_key)::integer)
    ON CONFLICT (org_id) DO UPDATE
        SET by_keys = c.by_keys + EXCLUDED.by_keys, by_others = c.by_others + EXCLUDED.by_others
    RETURNING CASE WHEN of_key THEN c.by_keys ELSE c.by_others END INTO next_number;
    INSERT INTO audit_log (org_id, at, actor, key_id, key_prefix, action, target, detail, address, request_id, number)
    VALUES (org, clock_timestamp(), actor, key, (SELECT prefix FROM api_keys WHERE id = key), action, target, detail,
            address::inet, request, next_number);
    DELETE FROM audit_log WHERE id IN (
        SELECT l.id FROM audit_log l
        WHERE l.org_id = org AND l.by_key = of_key AND l.number <= audit_passed(org, of_key)
        ORDER BY l.number LIMIT 100 FOR UPDATE SKIP LOCKED);
END
$$;
CREATE FUNCTION public.audit_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.at < now() - audit_retention()
            OR OLD.number <= audit_passed(OLD.org_id, OLD.by_key)
            OR EXISTS (SELECT FROM organizations WHERE id = OLD.org_id AND status = 'erasing') THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE FUNCTION public.audit_passed(org uuid, of_key boolean) RETURNS bigint
    LANGUAGE sql STABLE
    AS $$
    SELECT CASE WHEN of_key THEN c.by_keys ELSE c.by_others END - s.entries
    FROM audit_counts c CROSS JOIN audit_settings s WHERE c.org_id = org
$$;
CREATE FUNCTION public.audit_retention() RETURNS interval
    LANGUAGE sql IMMUTABLE
    AS $$ SELECT interval '400 days' $$;
CREATE FUNCTION public.lower_first_due() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.first_due_at := CASE WHEN OLD.is_held AND NOT NEW.is_held THEN '-infinity'
                             ELSE least(NEW.first_due_at, NEW.next_due_at - interval '1 ms') END;
    RETURN NEW;
END
$$;
CREATE FUNCTION public.organizations_erased() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    -- Both slices may be done at once: the second one waits here, and then sees the first.
    PERFORM FROM organizations WHERE id = NEW.org_id FOR UPDATE;
    IF (SELECT count(*) FROM erasures WHERE org_id = NEW.org_id AND done_at IS NOT NULL) = 2
        AND EXISTS (SELECT FROM organizations WHERE id = NEW.org_id AND status = 'erasing') THEN
        DELETE FROM api_keys WHERE org_id = NEW.org_id;
        DELETE FROM audit_log WHERE org_id = NEW.org_id;
        DELETE FROM audit_counts WHERE org_id = NEW.org_id;
        UPDATE organizations SET status = 'erased', name = id::text WHERE id = NEW.org_id;
        PERFORM audit_append(NEW.org_id, 'system', NULL, 'organization.erased', NEW.org_id, '{}', NULL, NULL);
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION public.tenancy_changed() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    new_version bigint;
BEGIN
    UPDATE tenancy_version SET version = version + 1 RETURNING version INTO new_version;
    PERFORM pg_notify('tenancy', new_version || ' ' || TG_ARGV[0] || ' ' || OLD.id);
    RETURN NULL;
END
$$;
CREATE FUNCTION public.view_create_next() RETURNS void
    LANGUAGE plpgsql
    AS $_$
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
$_$;
CREATE FUNCTION public.view_create_time_partition(generation text, starts timestamp with time zone, ends timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    AS $_$
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
$_$;
CREATE FUNCTION public.view_drop_time_partition(starts timestamp with time zone, OUT dropped bigint, OUT unacknowledged bigint) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.view_ensure_time_partition(generation text, at timestamp with time zone, days integer) RETURNS void
    LANGUAGE plpgsql
    AS $_$
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
$_$;
CREATE FUNCTION public.view_record_gaps(orgs uuid[], partitions integer[], epochs integer[], offsets bigint[], times timestamp with time zone[]) RETURNS void
    LANGUAGE sql
    AS $$
    INSERT INTO retention_gaps AS g (org_id, log_partition, log_epoch, log_offset, accepted_at)
    SELECT DISTINCT ON (org_id, log_partition) org_id, log_partition, log_epoch, log_offset, accepted_at
    FROM UNNEST(orgs, partitions, epochs, offsets, times)
         AS t (org_id, log_partition, log_epoch, log_offset, accepted_at)
    ORDER BY org_id, log_partition, log_epoch DESC, log_offset DESC
    ON CONFLICT (org_id, log_partition) DO UPDATE
       SET log_epoch = EXCLUDED.log_epoch, log_offset = EXCLUDED.log_offset, accepted_at = EXCLUDED.accepted_at
       WHERE (g.log_epoch, g.log_offset) < (EXCLUDED.log_epoch, EXCLUDED.log_offset)
$$;
CREATE FUNCTION public.view_record_gaps_before(events regclass, before timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    AS $_$
BEGIN
    EXECUTE format(
        'SELECT view_record_gaps(array_agg(org_id), array_agg(log_partition), array_agg(log_epoch),
                                 array_agg(log_offset), array_agg(accepted_at))
         FROM (SELECT DISTINCT ON (org_id, log_partition) org_id, log_partition, log_epoch, log_offset, accepted_at
               FROM %s WHERE accepted_at < $1
               ORDER BY org_id, log_partition, log_epoch DESC, log_offset DESC) AS newest', events) USING before;
END
$_$;
CREATE FUNCTION public.view_switch() RETURNS void
    LANGUAGE plpgsql
    AS $$
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
CREATE TABLE view.events (
    org_id uuid NOT NULL,
    event_id uuid NOT NULL,
    log_epoch integer NOT NULL,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    accepted_at timestamp with time zone NOT NULL,
    event_type text NOT NULL COLLATE pg_catalog."C",
    payload json NOT NULL,
    occurred_at timestamp with time zone,
    source text,
    ordering_key text,
    metadata json,
    dedup_id text,
    acknowledged_at timestamp with time zone,
    delivery_status text DEFAULT 'pending'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    payload_encoding text
)
PARTITION BY RANGE (accepted_at);
COMMENT ON TABLE view.events IS 'The events of the inbox. An id is unique within each time partition (its index is created with it, since a unique index over all of them would need the time); over all time partitions, event_ids decides.';
CREATE VIEW contract.acknowledged AS
 SELECT events.org_id,
    events.event_id,
    events.acknowledged_at
   FROM view.events
  WHERE (events.acknowledged_at IS NOT NULL);
CREATE TABLE public.dedup_keys (
    org_id uuid NOT NULL,
    kind text NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    event_id uuid NOT NULL,
    body_hash text NOT NULL,
    accepted_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE public.dedup_keys IS 'Which event has a dedup key. Not partitioned by time: the upsert overwrites an expired key, and the sweep deletes the others in small batches.';
CREATE VIEW contract.dedup_keys AS
 SELECT dedup_keys.org_id,
    dedup_keys.kind,
    dedup_keys.key,
    dedup_keys.event_id,
    dedup_keys.body_hash,
    dedup_keys.accepted_at,
    dedup_keys.expires_at
   FROM public.dedup_keys;
CREATE TABLE public.endpoints (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    url text NOT NULL,
    event_types text[] DEFAULT '{}'::text[] NOT NULL,
    description text,
    sealed_headers bytea,
    sealed_secret bytea,
    max_in_flight integer,
    timeout_seconds integer NOT NULL,
    retry_schedule integer[] NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    disabled_reason text,
    is_default boolean DEFAULT false NOT NULL,
    version bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    filter json,
    sealed_previous_secret bytea,
    previous_expires_at timestamp with time zone,
    auth jsonb,
    compat_signature jsonb,
    sealed_auth bytea,
    sealed_compat_signature bytea,
    rate_limit_per_second integer,
    disabled_at timestamp with time zone,
    ordered boolean DEFAULT false NOT NULL,
    ack_on_success boolean DEFAULT false NOT NULL,
    batch json,
    CONSTRAINT endpoints_auth_check CHECK (((auth IS NULL) = (sealed_auth IS NULL))),
    CONSTRAINT endpoints_check CHECK (((disabled_reason IS NULL) = enabled)),
    CONSTRAINT endpoints_check1 CHECK (((disabled_at IS NULL) OR (NOT enabled))),
    CONSTRAINT endpoints_compat_signature_check CHECK (((compat_signature IS NULL) = (sealed_compat_signature IS NULL))),
    CONSTRAINT endpoints_max_in_flight_check CHECK (((max_in_flight >= 1) AND (max_in_flight <= 1000))),
    CONSTRAINT endpoints_previous_secret_check CHECK (((sealed_previous_secret IS NULL) = (previous_expires_at IS NULL))),
    CONSTRAINT endpoints_rate_limit_per_second_check CHECK (((rate_limit_per_second >= 1) AND (rate_limit_per_second <= 1000))),
    CONSTRAINT endpoints_timeout_seconds_check CHECK (((timeout_seconds >= 1) AND (timeout_seconds <= 30)))
);
COMMENT ON TABLE public.endpoints IS 'Webhook endpoints of organizations.';
CREATE VIEW contract.default_endpoints AS
 SELECT endpoints.org_id,
    endpoints.url
   FROM public.endpoints
  WHERE (endpoints.is_default AND (endpoints.deleted_at IS NULL));
CREATE TABLE view.deliveries (
    org_id uuid NOT NULL,
    delivery_id uuid NOT NULL,
    event_id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    event_type text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL,
    attempts integer NOT NULL,
    last_started_at timestamp with time zone NOT NULL,
    last_status_code integer,
    last_error text,
    next_attempt_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    last_appended_at timestamp with time zone NOT NULL,
    rank smallint NOT NULL,
    endpoints_matched integer
);
COMMENT ON TABLE view.deliveries IS 'One row per event and endpoint, as its last attempt left it. Not partitioned: each attempt updates the row by id.';
CREATE VIEW contract.deliveries AS
 SELECT deliveries.org_id,
    deliveries.delivery_id,
    deliveries.event_id,
    deliveries.endpoint_id,
    deliveries.event_type,
    deliveries.status,
    deliveries.attempts,
    deliveries.next_attempt_at,
    deliveries.last_status_code,
    deliveries.last_error,
    deliveries.last_started_at,
    deliveries.created_at,
    (deliveries.rank / 3) AS round
   FROM view.deliveries;
CREATE TABLE view.delivery_attempts (
    org_id uuid NOT NULL,
    delivery_id uuid NOT NULL,
    attempt integer NOT NULL,
    outcome text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    latency_ms bigint NOT NULL,
    status_code integer,
    error text,
    response_excerpt text,
    appended_at timestamp with time zone NOT NULL,
    connect_us bigint,
    send_us bigint,
    wait_us bigint,
    remote_address text,
    batch_id uuid
)
PARTITION BY RANGE (appended_at);
COMMENT ON TABLE view.delivery_attempts IS 'Every attempt that a dispatcher reported.';
CREATE VIEW contract.delivery_attempts AS
 SELECT delivery_attempts.org_id,
    delivery_attempts.delivery_id,
    delivery_attempts.attempt,
    delivery_attempts.outcome,
    delivery_attempts.started_at,
    delivery_attempts.latency_ms,
    delivery_attempts.connect_us,
    delivery_attempts.send_us,
    delivery_attempts.wait_us,
    delivery_attempts.status_code,
    delivery_attempts.error,
    delivery_attempts.response_excerpt,
    delivery_attempts.remote_address,
    delivery_attempts.batch_id
   FROM view.delivery_attempts;
CREATE TABLE public.event_ids (
    org_id uuid NOT NULL,
    event_id uuid NOT NULL,
    canonical_id uuid NOT NULL,
    log_epoch integer NOT NULL,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    newest_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE public.event_ids IS 'Which record an event id belongs to, and of which event that record is a duplicate. One row for each id that does not say so itself: ids that producers choose, ids that two records name, and duplicates. Ids of ingest need none. These are decisions: only a first reading writes them; replay and rebuild read them.';
CREATE VIEW contract.duplicates AS
 SELECT event_ids.org_id,
    event_ids.event_id,
    event_ids.canonical_id
   FROM public.event_ids
  WHERE (event_ids.canonical_id <> event_ids.event_id);
CREATE TABLE public.erasures (
    org_id uuid NOT NULL,
    consumer text NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    topics text[],
    partitions integer[],
    log_epochs integer[],
    ends bigint[],
    done_at timestamp with time zone,
    CONSTRAINT erasures_consumer_check CHECK ((consumer = ANY (ARRAY['materializer'::text, 'dispatcher'::text])))
);
COMMENT ON TABLE public.erasures IS 'How far each slice has erased an organization. A slice writes only its own rows.';
CREATE VIEW contract.erasures AS
 SELECT erasures.org_id,
    erasures.consumer,
    erasures.done_at
   FROM public.erasures;
CREATE VIEW contract.events AS
 SELECT events.org_id,
    events.event_id,
    events.event_type,
    events.accepted_at,
    events.log_epoch,
    events.log_partition,
    events.log_offset,
    events.payload,
    events.payload_encoding,
    events.acknowledged_at
   FROM view.events;
CREATE TABLE public.organizations (
    id uuid NOT NULL,
    name text NOT NULL,
    tier text DEFAULT 'free'::text NOT NULL,
    rate_limit_per_minute integer,
    status text DEFAULT 'active'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT organizations_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 255))),
    CONSTRAINT organizations_rate_limit_per_minute_check CHECK ((rate_limit_per_minute >= 0)),
    CONSTRAINT organizations_status_check CHECK ((status = ANY (ARRAY['active'::text, 'erasing'::text, 'erased'::text]))),
    CONSTRAINT organizations_tier_check CHECK ((tier = ANY (ARRAY['free'::text, 'pro'::text, 'business'::text, 'enterprise'::text])))
);
COMMENT ON TABLE public.organizations IS 'The tenants. Erasing one sets its status; that alone stops its keys, records and webhooks. The slices then delete their rows in batches.';
CREATE VIEW contract.organizations AS
 SELECT organizations.id,
    organizations.status
   FROM public.organizations;
CREATE TABLE public.retention_floor (
    only_row boolean DEFAULT true NOT NULL,
    floor timestamp with time zone NOT NULL,
    CONSTRAINT retention_floor_only_row_check CHECK (only_row)
);
COMMENT ON TABLE public.retention_floor IS 'Records accepted before the floor are not part of the view, whatever the log still holds. It only rises.';
CREATE VIEW contract.retention_floor AS
 SELECT retention_floor.floor
   FROM public.retention_floor;
CREATE TABLE public.system_event_key (
    only_row boolean DEFAULT true NOT NULL,
    key bytea NOT NULL,
    CONSTRAINT system_event_key_key_check CHECK ((octet_length(key) = 32)),
    CONSTRAINT system_event_key_only_row_check CHECK (only_row)
);
COMMENT ON TABLE public.system_event_key IS 'The key that signs events of the system on the log, so that no other producer can write one.';
CREATE VIEW contract.system_event_key AS
 SELECT system_event_key.key
   FROM public.system_event_key;
CREATE TABLE public.api_keys (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    name text NOT NULL,
    role text NOT NULL,
    environment text NOT NULL,
    prefix text NOT NULL COLLATE pg_catalog."C",
    hash bytea NOT NULL,
    event_types text[] COLLATE pg_catalog."C",
    rate_limit_per_minute integer,
    content_dedup boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    limit_scope_id uuid,
    CONSTRAINT api_keys_environment_check CHECK ((environment = ANY (ARRAY['live'::text, 'test'::text, 'development'::text]))),
    CONSTRAINT api_keys_event_types_check CHECK ((cardinality(event_types) > 0)),
    CONSTRAINT api_keys_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT api_keys_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 255))),
    CONSTRAINT api_keys_prefix_check CHECK ((char_length(prefix) = 17)),
    CONSTRAINT api_keys_rate_limit_per_minute_check CHECK ((rate_limit_per_minute >= 0)),
    CONSTRAINT api_keys_role_check CHECK ((role = ANY (ARRAY['produce'::text, 'consume'::text, 'manage'::text, 'admin'::text])))
);
COMMENT ON TABLE public.api_keys IS 'API keys, as hashes.';
CREATE TABLE public.audit_counts (
    org_id uuid NOT NULL,
    by_keys bigint DEFAULT 0 NOT NULL,
    by_others bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='70');
COMMENT ON TABLE public.audit_counts IS 'One row for each organization with audit entries. Appending locks it until the end of the transaction, so ids become visible in order: a reader that pages by id misses no entry that was committed late.';
CREATE TABLE public.audit_log (
    id bigint NOT NULL,
    org_id uuid NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    actor text NOT NULL,
    key_id uuid,
    key_prefix text,
    action text NOT NULL,
    target uuid NOT NULL,
    detail jsonb NOT NULL,
    address inet,
    request_id text,
    by_key boolean GENERATED ALWAYS AS ((actor = 'key'::text)) STORED NOT NULL,
    number bigint DEFAULT 0 NOT NULL,
    CONSTRAINT audit_log_action_check CHECK ((action ~ '^[a-z_]{1,30}\.[a-z_]{1,30}$'::text)),
    CONSTRAINT audit_log_actor_check CHECK ((actor = ANY (ARRAY['key'::text, 'operator'::text, 'configuration'::text, 'system'::text, 'anonymous'::text]))),
    CONSTRAINT audit_log_check CHECK (((key_id IS NOT NULL) = (actor = 'key'::text))),
    CONSTRAINT audit_log_detail_check CHECK ((octet_length((detail)::text) <= 131072)),
    CONSTRAINT audit_log_key_prefix_check CHECK ((char_length(key_prefix) = 17)),
    CONSTRAINT audit_log_request_id_check CHECK ((char_length(request_id) <= 128))
);
COMMENT ON TABLE public.audit_log IS 'Append-only. Rows are deleted only when their organization is erased, when they are older than audit_retention(), or when audit_settings.entries newer ones of the same kind exist.';
ALTER TABLE public.audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.audit_settings (
    only_row boolean DEFAULT true NOT NULL,
    entries integer NOT NULL,
    CONSTRAINT audit_settings_entries_check CHECK ((entries >= 1000)),
    CONSTRAINT audit_settings_only_row_check CHECK (only_row)
);
CREATE TABLE public.consumer_positions (
    consumer text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    epoch bigint DEFAULT 1 NOT NULL,
    log_epoch integer DEFAULT 1 NOT NULL,
    next_offset bigint NOT NULL,
    record_time timestamp with time zone,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    topic_id uuid,
    leader_epoch integer,
    CONSTRAINT consumer_positions_leader_epoch_check CHECK ((leader_epoch >= 0)),
    CONSTRAINT consumer_positions_next_offset_check CHECK ((next_offset >= 0))
)
WITH (fillfactor='25');
COMMENT ON TABLE public.consumer_positions IS 'The next offset of each consumer. It advances in the transaction that writes what the records before it gave. A writer whose epoch is older matches no row and writes nothing: this makes the view effectively-once. Offsets committed to Kafka are only a copy for lag tools.';
CREATE TABLE public.deliveries_awaiting_dedup (
    endpoint_id uuid NOT NULL,
    log_epoch integer NOT NULL,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    delivery_id uuid NOT NULL,
    org_id uuid NOT NULL,
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    accepted_at timestamp with time zone NOT NULL,
    traceparent text,
    hops integer DEFAULT 0 NOT NULL,
    endpoints_matched integer,
    lane uuid
)
WITH (autovacuum_vacuum_scale_factor='0.02');
COMMENT ON TABLE public.deliveries_awaiting_dedup IS 'Deliveries that wait for the duplicate decision on their event, keyed by the record. Two records may have one event id: each is decided for itself when the view has passed it. The delivery becomes pending if the view shows the event at exactly this position and no decision calls it a duplicate. Otherwise the row is deleted.';
CREATE TABLE public.delivery_events (
    log_partition integer NOT NULL,
    log_epoch integer NOT NULL,
    log_offset bigint NOT NULL,
    org_id uuid NOT NULL,
    payload text NOT NULL,
    payload_encoding text,
    traceparent text,
    hops integer DEFAULT 0 NOT NULL,
    endpoints_matched integer
)
WITH (autovacuum_vacuum_scale_factor='0.02');
COMMENT ON TABLE public.delivery_events IS 'What requests need of events that have rows in delivery_schedule, once per record. Deleted with the last of these rows. It is not read from the view: webhooks are retried while no materializer runs.';
CREATE TABLE public.delivery_schedule (
    delivery_id uuid NOT NULL,
    org_id uuid NOT NULL,
    event_id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    event_type text NOT NULL,
    accepted_at timestamp with time zone NOT NULL,
    log_epoch integer NOT NULL,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    state text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone NOT NULL,
    lease_id uuid,
    finished_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    refusal text,
    round integer DEFAULT 0 NOT NULL,
    attempts_before integer DEFAULT 0 NOT NULL,
    lane uuid,
    batch_limit integer,
    replay_id uuid,
    CONSTRAINT delivery_schedule_check CHECK (((finished_at IS NOT NULL) = (state = ANY (ARRAY['delivered'::text, 'failed'::text, 'cancelled'::text])))),
    CONSTRAINT delivery_schedule_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'delivered'::text, 'failed'::text, 'cancelled'::text])))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.02');
COMMENT ON TABLE public.delivery_schedule IS 'Deliveries that the first attempt from the log did not finish. A row holds what sending needs, so it depends neither on the view nor on what the log still has. A finished row stays until the position has passed its record: until then, a second reading of the record must find that it is done.';
CREATE TABLE public.delivery_successes (
    org_id uuid NOT NULL,
    event_id uuid NOT NULL,
    matched integer NOT NULL,
    endpoints uuid[] NOT NULL,
    accepted_at timestamp with time zone NOT NULL,
    due_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.02');
COMMENT ON TABLE public.delivery_successes IS 'Which endpoints have accepted an event, in organizations with ack_on_success. A row is written in the transaction that finishes the delivery, and deleted when the event is acknowledged.';
CREATE TABLE public.delivery_usage (
    org_id uuid NOT NULL,
    open_rows bigint NOT NULL,
    event_bytes bigint NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02');
COMMENT ON TABLE public.delivery_usage IS 'What an organization has open, changed in the transactions that change the rows.';
CREATE TABLE public.endpoint_changes (
    org_id uuid NOT NULL,
    started_at timestamp with time zone NOT NULL,
    changes integer NOT NULL
)
WITH (fillfactor='70');
COMMENT ON TABLE public.endpoint_changes IS 'How often each organization has changed its endpoints in the current hour. The routes refuse more than a bound: every dispatcher reads every change, and changes wait for each other.';
CREATE TABLE public.endpoint_conditions (
    endpoint_id uuid NOT NULL,
    org_id uuid NOT NULL,
    next_free_at timestamp with time zone DEFAULT now() NOT NULL,
    rate_share double precision DEFAULT 1 NOT NULL,
    reduced_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    circuit text DEFAULT 'closed'::text NOT NULL,
    circuit_retry_at timestamp with time zone,
    stopped_until timestamp with time zone,
    max_in_flight integer,
    failing_since timestamp with time zone,
    last_failed_at timestamp with time zone,
    writer uuid,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT endpoint_conditions_check CHECK (((last_failed_at IS NULL) = (failing_since IS NULL))),
    CONSTRAINT endpoint_conditions_circuit_check CHECK ((circuit = ANY (ARRAY['closed'::text, 'open'::text, 'half_open'::text]))),
    CONSTRAINT endpoint_conditions_rate_share_check CHECK (((rate_share > (0)::double precision) AND (rate_share <= (1)::double precision)))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02');
COMMENT ON TABLE public.endpoint_conditions IS 'What dispatchers know of endpoints and share: the places on a rate limit, the current rate, the circuit, and since when every attempt fails. A row that says nothing any more is deleted an hour after its last change.';
CREATE TABLE public.endpoint_queues (
    endpoint_id uuid NOT NULL,
    org_id uuid NOT NULL,
    next_due_at timestamp with time zone NOT NULL,
    is_held boolean DEFAULT false NOT NULL,
    resumed_at timestamp with time zone,
    first_due_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02');
COMMENT ON TABLE public.endpoint_queues IS 'When something of an endpoint is due in delivery_schedule. Who adds a row or makes one due earlier lowers next_due_at in the same transaction. Who claims rows locks the row here first: two instances never claim of one endpoint at the same time.';
CREATE SEQUENCE public.endpoint_test_numbers
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE public.endpoints_version (
    only_row boolean DEFAULT true NOT NULL,
    version bigint NOT NULL,
    purged_version bigint DEFAULT 0 NOT NULL,
    CONSTRAINT endpoints_version_only_row_check CHECK (only_row)
);
COMMENT ON TABLE public.endpoints_version IS 'One row, raised in the transaction of every change to endpoints. It serializes these transactions: versions become visible in order and without gaps, so "newer than the one I know" misses nothing.';
CREATE TABLE public.log_skips (
    consumer text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    log_epoch integer NOT NULL,
    from_offset bigint NOT NULL,
    to_offset bigint NOT NULL,
    skipped_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT log_skips_check CHECK ((to_offset > from_offset))
);
COMMENT ON TABLE public.log_skips IS 'Ranges that an operator made a consumer skip because nobody could read them. Replay and rebuild skip them too. Rows are never deleted: there are few.';
CREATE TABLE public.ordered_lanes (
    endpoint_id uuid NOT NULL,
    lane uuid NOT NULL,
    org_id uuid NOT NULL,
    due_at timestamp with time zone NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02');
COMMENT ON TABLE public.ordered_lanes IS 'Lanes with rows in delivery_schedule. Who adds a row of a lane, finishes one or makes one due earlier lowers due_at in the same transaction. Who claims the first row of a lane locks the lane here, and deletes it when the lane has no row.';
CREATE TABLE public.rate_limit_instances (
    instance uuid NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='25');
COMMENT ON TABLE public.rate_limit_instances IS 'The processes that limit rates, each with the time of its last report. While this server does not answer, each admits its part of every limit.';
CREATE TABLE public.rate_limits (
    scope uuid NOT NULL,
    newest_bucket bigint NOT NULL,
    counts bytea NOT NULL
)
WITH (fillfactor='25');
COMMENT ON TABLE public.rate_limits IS 'The sliding window of each limit, which all instances share. A row that no longer counts is deleted: nothing here is worth a backup.';
CREATE TABLE public.rejected (
    log_topic text NOT NULL COLLATE pg_catalog."C",
    log_partition integer NOT NULL,
    log_epoch integer NOT NULL,
    log_offset bigint NOT NULL,
    org_id uuid,
    appended_at timestamp with time zone NOT NULL,
    error_class text NOT NULL COLLATE pg_catalog."C",
    message text NOT NULL
);
COMMENT ON TABLE public.rejected IS 'Records that became dead letters: when, where and why, never their bytes. A decision: such a record stays rejected when the log is read again. A redrive brings it back as a new record.';
CREATE TABLE public.replay_log_ends (
    replay_id uuid NOT NULL,
    consumer text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    log_epoch integer NOT NULL,
    log_end bigint NOT NULL,
    has_records boolean NOT NULL
);
COMMENT ON TABLE public.replay_log_ends IS 'Where the logs ended when a running replay of events started. It schedules nothing before these consumers have reached the ends, and reads the events before the ends only: later ones are matched when they are read from the log.';
CREATE TABLE public.replay_outcomes (
    replay_id uuid NOT NULL,
    delivered integer NOT NULL,
    failed integer NOT NULL
);
COMMENT ON TABLE public.replay_outcomes IS 'How many deliveries of a replay ended in one transaction of a dispatcher. Appended, because all dispatchers would wait for one row; the next batch of the replay, or the sweep, adds them to the replay.';
CREATE TABLE public.replays (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    only_status text NOT NULL,
    created_from timestamp with time zone,
    created_before timestamp with time zone,
    event_types text[],
    status text DEFAULT 'running'::text NOT NULL,
    matched bigint DEFAULT 0 NOT NULL,
    scheduled bigint DEFAULT 0 NOT NULL,
    cursor_created_at timestamp with time zone,
    cursor_delivery_id uuid,
    next_at timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    from_partition integer,
    from_offset bigint,
    stage text DEFAULT 'scheduling'::text NOT NULL,
    is_held_back boolean DEFAULT false NOT NULL,
    cursor_log_partition integer,
    cursor_log_epoch integer,
    cursor_log_offset bigint,
    delivered bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    CONSTRAINT replays_check CHECK (((status = 'running'::text) = (ended_at IS NULL))),
    CONSTRAINT replays_check1 CHECK (((from_partition IS NULL) = (from_offset IS NULL))),
    CONSTRAINT replays_check2 CHECK ((((cursor_log_partition IS NULL) = (cursor_log_offset IS NULL)) AND ((cursor_log_partition IS NULL) = (cursor_log_epoch IS NULL)))),
    CONSTRAINT replays_only_status_check CHECK ((only_status = ANY (ARRAY['failed'::text, 'missing'::text, 'all'::text]))),
    CONSTRAINT replays_stage_check CHECK ((stage = ANY (ARRAY['starting'::text, 'log'::text, 'reports'::text, 'scheduling'::text]))),
    CONSTRAINT replays_status_check CHECK ((status = ANY (ARRAY['running'::text, 'finished'::text, 'cancelled'::text])))
);
COMMENT ON TABLE public.replays IS 'Deliveries of endpoints that are retried in bulk, and events that are sent to endpoints again or late. Any dispatcher schedules the next batch, and moves the cursor in the same transaction.';
CREATE TABLE public.retention_gaps (
    org_id uuid NOT NULL,
    log_partition integer NOT NULL,
    log_epoch integer NOT NULL,
    log_offset bigint NOT NULL,
    accepted_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE public.retention_gaps IS 'The newest dropped event of each organization and partition. A reader whose cursor is before it has missed it.';
CREATE TABLE public.system_events (
    event_id uuid NOT NULL,
    org_id uuid NOT NULL,
    event_type text NOT NULL,
    payload text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
COMMENT ON TABLE public.system_events IS 'Events of the system that are not on the log yet. A row is added in the transaction of what it reports. Ingest appends the event, and deletes the row when Kafka has it. After a crash in between, the log has the event twice, with one id.';
CREATE TABLE public.tenancy_version (
    only_row boolean DEFAULT true NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT tenancy_version_only_row_check CHECK (only_row)
)
WITH (fillfactor='25');
COMMENT ON TABLE public.tenancy_version IS 'One row that counts every change that can take a right away from a cached key. It serializes such changes, so versions commit in order: a process that has seen version n and reads n has missed nothing.';
CREATE TABLE view.pending_effects (
    org_id uuid NOT NULL,
    event_id uuid NOT NULL,
    effect text NOT NULL,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    item integer DEFAULT 0 NOT NULL,
    appended_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE view.pending_effects IS 'Acks and attempt reports that came before their event. They are applied when an event with that id appears.';
CREATE TABLE view.time_partitions (
    starts_at timestamp with time zone NOT NULL,
    ends_at timestamp with time zone NOT NULL,
    CONSTRAINT time_partitions_check CHECK ((ends_at > starts_at))
);
COMMENT ON TABLE view.time_partitions IS 'The time partitions of view.events and view.delivery_attempts, which have the same ones: [starts_at, ends_at).';
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_hash_key UNIQUE (hash);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.audit_counts
    ADD CONSTRAINT audit_counts_pkey PRIMARY KEY (org_id);
ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.audit_settings
    ADD CONSTRAINT audit_settings_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY public.consumer_positions
    ADD CONSTRAINT consumer_positions_pkey PRIMARY KEY (consumer, topic, partition);
ALTER TABLE ONLY public.dedup_keys
    ADD CONSTRAINT dedup_keys_pkey PRIMARY KEY (org_id, kind, key);
ALTER TABLE ONLY public.deliveries_awaiting_dedup
    ADD CONSTRAINT deliveries_awaiting_dedup_pkey PRIMARY KEY (log_partition, log_epoch, log_offset, endpoint_id);
ALTER TABLE ONLY public.delivery_events
    ADD CONSTRAINT delivery_events_pkey PRIMARY KEY (log_partition, log_epoch, log_offset);
ALTER TABLE ONLY public.delivery_schedule
    ADD CONSTRAINT delivery_schedule_pkey PRIMARY KEY (delivery_id);
ALTER TABLE ONLY public.delivery_successes
    ADD CONSTRAINT delivery_successes_pkey PRIMARY KEY (org_id, event_id);
ALTER TABLE ONLY public.delivery_usage
    ADD CONSTRAINT delivery_usage_pkey PRIMARY KEY (org_id);
ALTER TABLE ONLY public.endpoint_changes
    ADD CONSTRAINT endpoint_changes_pkey PRIMARY KEY (org_id);
ALTER TABLE ONLY public.endpoint_conditions
    ADD CONSTRAINT endpoint_conditions_pkey PRIMARY KEY (endpoint_id);
ALTER TABLE ONLY public.endpoint_queues
    ADD CONSTRAINT endpoint_queues_pkey PRIMARY KEY (endpoint_id);
ALTER TABLE ONLY public.endpoints
    ADD CONSTRAINT endpoints_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.endpoints_version
    ADD CONSTRAINT endpoints_version_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY public.erasures
    ADD CONSTRAINT erasures_pkey PRIMARY KEY (org_id, consumer);
ALTER TABLE ONLY public.event_ids
    ADD CONSTRAINT event_ids_pkey PRIMARY KEY (org_id, event_id);
ALTER TABLE ONLY public.log_skips
    ADD CONSTRAINT log_skips_pkey PRIMARY KEY (consumer, topic, partition, log_epoch, from_offset);
ALTER TABLE ONLY public.ordered_lanes
    ADD CONSTRAINT ordered_lanes_pkey PRIMARY KEY (endpoint_id, lane);
ALTER TABLE ONLY public.organizations
    ADD CONSTRAINT organizations_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.rate_limit_instances
    ADD CONSTRAINT rate_limit_instances_pkey PRIMARY KEY (instance);
ALTER TABLE ONLY public.rate_limits
    ADD CONSTRAINT rate_limits_pkey PRIMARY KEY (scope);
ALTER TABLE ONLY public.rejected
    ADD CONSTRAINT rejected_pkey PRIMARY KEY (log_topic, log_partition, log_epoch, log_offset);
ALTER TABLE ONLY public.replay_log_ends
    ADD CONSTRAINT replay_log_ends_pkey PRIMARY KEY (replay_id, consumer, topic, partition);
ALTER TABLE ONLY public.replays
    ADD CONSTRAINT replays_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.retention_floor
    ADD CONSTRAINT retention_floor_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY public.retention_gaps
    ADD CONSTRAINT retention_gaps_pkey PRIMARY KEY (org_id, log_partition);
ALTER TABLE ONLY public.system_event_key
    ADD CONSTRAINT system_event_key_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY public.system_events
    ADD CONSTRAINT system_events_pkey PRIMARY KEY (event_id);
ALTER TABLE ONLY public.tenancy_version
    ADD CONSTRAINT tenancy_version_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY view.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (org_id, delivery_id);
ALTER TABLE ONLY view.pending_effects
    ADD CONSTRAINT pending_effects_pkey PRIMARY KEY (org_id, event_id, effect, log_partition, log_offset, item);
ALTER TABLE ONLY view.time_partitions
    ADD CONSTRAINT time_partitions_pkey PRIMARY KEY (starts_at);
CREATE INDEX api_keys_org ON public.api_keys USING btree (org_id, created_at DESC, id);
CREATE INDEX api_keys_prefix ON public.api_keys USING btree (prefix);
CREATE INDEX audit_log_at ON public.audit_log USING btree (at);
CREATE INDEX audit_log_number ON public.audit_log USING btree (org_id, by_key, number);
CREATE INDEX audit_log_org ON public.audit_log USING btree (org_id, id DESC);
CREATE INDEX dedup_keys_expiry ON public.dedup_keys USING btree (expires_at);
CREATE INDEX deliveries_awaiting_dedup_event ON public.deliveries_awaiting_dedup USING btree (org_id, event_id);
CREATE INDEX deliveries_awaiting_dedup_lane ON public.deliveries_awaiting_dedup USING btree (endpoint_id, lane, log_epoch, log_partition, log_offset) WHERE (lane IS NOT NULL);
CREATE INDEX delivery_events_org ON public.delivery_events USING btree (org_id);
CREATE INDEX delivery_schedule_age ON public.delivery_schedule USING btree (created_at, delivery_id) WHERE ((state = 'pending'::text) AND (refusal IS NULL));
CREATE INDEX delivery_schedule_due ON public.delivery_schedule USING btree (endpoint_id, due_at) WHERE ((state = 'pending'::text) AND (refusal IS NULL) AND (lane IS NULL));
CREATE INDEX delivery_schedule_event ON public.delivery_schedule USING btree (org_id, event_id);
CREATE INDEX delivery_schedule_finished ON public.delivery_schedule USING btree (finished_at) WHERE (finished_at IS NOT NULL);
CREATE INDEX delivery_schedule_lane ON public.delivery_schedule USING btree (endpoint_id, lane, log_epoch, log_partition, log_offset) WHERE ((state = 'pending'::text) AND (refusal IS NULL) AND (lane IS NOT NULL));
CREATE INDEX delivery_schedule_lane_in_flight ON public.delivery_schedule USING btree (endpoint_id, lane, due_at) WHERE ((state = 'pending'::text) AND (refusal IS NULL) AND (lane IS NOT NULL) AND (lease_id IS NOT NULL));
CREATE INDEX delivery_schedule_position ON public.delivery_schedule USING btree (log_partition, log_offset);
CREATE INDEX delivery_schedule_refused ON public.delivery_schedule USING btree (due_at) WHERE ((state = 'pending'::text) AND (refusal IS NOT NULL));
CREATE INDEX delivery_schedule_untried ON public.delivery_schedule USING btree (org_id, endpoint_id, accepted_at, delivery_id) WHERE ((attempts = 0) AND (state = 'pending'::text));
CREATE INDEX delivery_schedule_untried_type ON public.delivery_schedule USING btree (org_id, endpoint_id, event_type, accepted_at, delivery_id) WHERE ((attempts = 0) AND (state = 'pending'::text));
CREATE INDEX delivery_successes_age ON public.delivery_successes USING btree (accepted_at);
CREATE INDEX delivery_successes_complete ON public.delivery_successes USING btree (due_at) WHERE (cardinality(endpoints) >= matched);
CREATE INDEX endpoint_conditions_org ON public.endpoint_conditions USING btree (org_id);
CREATE INDEX endpoint_conditions_updated ON public.endpoint_conditions USING btree (updated_at);
CREATE INDEX endpoint_queues_due ON public.endpoint_queues USING btree (next_due_at) WHERE (next_due_at < 'infinity'::timestamp with time zone);
CREATE INDEX endpoint_queues_org ON public.endpoint_queues USING btree (org_id);
CREATE INDEX endpoints_ack_on_success ON public.endpoints USING btree (org_id) WHERE (ack_on_success AND (deleted_at IS NULL));
CREATE INDEX endpoints_changed ON public.endpoints USING btree (version, id);
CREATE UNIQUE INDEX endpoints_default ON public.endpoints USING btree (org_id) WHERE (is_default AND (deleted_at IS NULL));
CREATE INDEX endpoints_deleted ON public.endpoints USING btree (deleted_at) WHERE (deleted_at IS NOT NULL);
CREATE INDEX endpoints_live ON public.endpoints USING btree (version, id) WHERE (deleted_at IS NULL);
CREATE INDEX endpoints_not_erased ON public.endpoints USING btree (org_id) WHERE (url <> ''::text);
CREATE INDEX endpoints_org ON public.endpoints USING btree (org_id, created_at, id) WHERE (deleted_at IS NULL);
CREATE INDEX endpoints_previous_secret ON public.endpoints USING btree (previous_expires_at) WHERE (previous_expires_at IS NOT NULL);
CREATE INDEX event_ids_newest ON public.event_ids USING btree (newest_at);
CREATE INDEX ordered_lanes_due ON public.ordered_lanes USING btree (endpoint_id, due_at);
CREATE INDEX ordered_lanes_org ON public.ordered_lanes USING btree (org_id);
CREATE INDEX organizations_erasing ON public.organizations USING btree (id) WHERE (status = 'erasing'::text);
CREATE INDEX organizations_name ON public.organizations USING btree (name);
CREATE INDEX rejected_age ON public.rejected USING btree (appended_at);
CREATE INDEX rejected_newest ON public.rejected USING btree (org_id, appended_at, log_topic, log_partition, log_epoch, log_offset) WHERE (org_id IS NOT NULL);
CREATE INDEX replay_outcomes_replay ON public.replay_outcomes USING btree (replay_id);
CREATE INDEX replays_ended ON public.replays USING btree (ended_at) WHERE (ended_at IS NOT NULL);
CREATE INDEX replays_org ON public.replays USING btree (org_id);
CREATE INDEX replays_running ON public.replays USING btree (next_at) WHERE (status = 'running'::text);
CREATE UNIQUE INDEX replays_running_endpoint ON public.replays USING btree (endpoint_id) WHERE (status = 'running'::text);
CREATE INDEX system_events_created ON public.system_events USING btree (created_at);
CREATE INDEX deliveries_age ON view.deliveries USING btree (last_started_at);
CREATE INDEX deliveries_endpoint_status ON view.deliveries USING btree (org_id, endpoint_id, status, created_at, delivery_id);
CREATE INDEX deliveries_endpoint_type ON view.deliveries USING btree (org_id, endpoint_id, event_type, status, created_at, delivery_id);
CREATE INDEX deliveries_event ON view.deliveries USING btree (org_id, event_id);
CREATE INDEX events_acknowledged ON ONLY view.events USING btree (org_id, log_partition, log_epoch, log_offset) WHERE (acknowledged_at IS NOT NULL);
CREATE INDEX events_acknowledged_type ON ONLY view.events USING btree (org_id, event_type, log_partition, log_epoch, log_offset) WHERE (acknowledged_at IS NOT NULL);
CREATE INDEX events_failed_or_retrying ON ONLY view.events USING btree (org_id, delivery_status, log_partition, log_epoch, log_offset) WHERE (delivery_status = ANY (ARRAY['retrying'::text, 'failed'::text]));
CREATE INDEX events_open ON ONLY view.events USING btree (org_id, log_partition, log_epoch, log_offset) WHERE (acknowledged_at IS NULL);
CREATE INDEX events_open_type ON ONLY view.events USING btree (org_id, event_type, log_partition, log_epoch, log_offset) WHERE (acknowledged_at IS NULL);
CREATE INDEX pending_effects_age ON view.pending_effects USING btree (appended_at);
CREATE TRIGGER api_keys_changed AFTER DELETE OR UPDATE ON public.api_keys FOR EACH ROW EXECUTE FUNCTION public.tenancy_changed('key');
CREATE TRIGGER audit_log_append_only BEFORE DELETE OR UPDATE ON public.audit_log FOR EACH ROW EXECUTE FUNCTION public.audit_append_only();
CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON public.audit_log FOR EACH STATEMENT EXECUTE FUNCTION public.audit_append_only();
CREATE TRIGGER erasures_done AFTER UPDATE OF done_at ON public.erasures FOR EACH ROW WHEN ((new.done_at IS NOT NULL)) EXECUTE FUNCTION public.organizations_erased();
CREATE TRIGGER lower_first_due BEFORE UPDATE ON public.endpoint_queues FOR EACH ROW EXECUTE FUNCTION public.lower_first_due();
CREATE TRIGGER organizations_changed AFTER DELETE OR UPDATE ON public.organizations FOR EACH ROW EXECUTE FUNCTION public.tenancy_changed('organization');
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_org_id_fkey FOREIGN KEY (org_id) REFERENCES public.organizations(id);
ALTER TABLE ONLY public.replay_log_ends
    ADD CONSTRAINT replay_log_ends_replay_id_fkey FOREIGN KEY (replay_id) REFERENCES public.replays(id) ON DELETE CASCADE;
