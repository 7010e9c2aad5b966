-- Who may do what. Only the tenancy slice writes these tables.

CREATE TABLE organizations (
    id                    uuid        PRIMARY KEY,
    name                  text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    tier                  text        NOT NULL DEFAULT 'free'
                          CHECK (tier IN ('free', 'pro', 'business', 'enterprise')),
    -- NULL: the limit of the tier. 0: unlimited.
    rate_limit_per_minute integer     CHECK (rate_limit_per_minute >= 0),
    webhook_url           text,
    -- A row that is erasing or erased is a tombstone. It outlives the longest retention.
    status                text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'erasing', 'erased')),
    created_at            timestamptz NOT NULL DEFAULT now()
);
-- Names are not unique. Development keys look organizations up by name.
CREATE INDEX organizations_name ON organizations (name);
CREATE INDEX organizations_erasing ON organizations (id) WHERE status = 'erasing';

COMMENT ON TABLE organizations IS
    'The tenants. Erasing one sets its status; that alone stops its keys, records and webhooks. The slices then delete '
    'their rows in batches.';

CREATE TABLE api_keys (
    id                    uuid        PRIMARY KEY,
    org_id                uuid        NOT NULL REFERENCES organizations (id),
    name                  text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    role                  text        NOT NULL CHECK (role IN ('produce', 'consume', 'manage', 'admin')),
    -- live and test are in the form of the key. A development key comes from configuration and has any form; only a
    -- process whose own configuration lists it accepts it.
    environment           text        NOT NULL CHECK (environment IN ('live', 'test', 'development')),
    -- The part of a key that is shown, and by which it is looked up.
    prefix                text COLLATE "C" NOT NULL CHECK (char_length(prefix) = 17),
    -- SHA-256 of the key. The key itself is stored nowhere. SHA-256 is enough: a key is random, not a password.
    hash                  bytea       NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    -- NULL: every event type.
    event_types           text[] COLLATE "C" CHECK (cardinality(event_types) > 0),
    -- NULL: the limit of the organization. 0: unlimited. Any other value only narrows the organization's limit.
    rate_limit_per_minute integer     CHECK (rate_limit_per_minute >= 0),
    content_dedup         boolean     NOT NULL DEFAULT false,
    created_at            timestamptz NOT NULL DEFAULT now(),
    expires_at            timestamptz,
    revoked_at            timestamptz
);
CREATE INDEX api_keys_prefix ON api_keys (prefix);
CREATE INDEX api_keys_org ON api_keys (org_id, created_at DESC, id);

COMMENT ON TABLE api_keys IS 'API keys, as hashes.';

CREATE TABLE tenancy_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
) WITH (fillfactor = 25);
INSERT INTO tenancy_version (version) VALUES (0);

COMMENT ON TABLE tenancy_version IS
    'One row that counts every change that can take a right away from a cached key. It serializes such changes, so '
    'versions commit in order: a process that has seen version n and reads n has missed nothing.';

-- Notifies every instance which cached keys to drop. It is a trigger on the tables, so that a change by hand counts
-- too. The message: version, kind of the change (key, organization), its id.
CREATE FUNCTION tenancy_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    new_version bigint;
BEGIN
    UPDATE tenancy_version SET version = version + 1 RETURNING version INTO new_version;
    PERFORM pg_notify('tenancy', new_version || ' ' || TG_ARGV[0] || ' ' || OLD.id);
    RETURN NULL;
END
$$;

-- Not on INSERT: a new key or organization is cached nowhere.
CREATE TRIGGER api_keys_changed AFTER UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION tenancy_changed('key');
CREATE TRIGGER organizations_changed AFTER UPDATE OR DELETE ON organizations
    FOR EACH ROW EXECUTE FUNCTION tenancy_changed('organization');

CREATE TABLE erasures (
    org_id     uuid        NOT NULL,
    consumer   text        NOT NULL CHECK (consumer IN ('materializer', 'dispatcher')),
    -- When the slice first saw the tombstone, which was committed by then.
    seen_at    timestamptz NOT NULL DEFAULT now(),
    -- Where the log ended some seconds later, one array per column; NULL until it was read. Whatever an instance read
    -- before it knew of the tombstone is before these ends: once the positions are there, no such row can be written.
    topics     text[],
    partitions integer[],
    log_epochs integer[],
    ends       bigint[],
    -- When nothing of the organization was left in this slice.
    done_at    timestamptz,
    PRIMARY KEY (org_id, consumer)
);

COMMENT ON TABLE erasures IS 'How far each slice has erased an organization. A slice writes only its own rows.';

-- When the last slice is done, the organization is erased and its keys, which were refused before, are deleted.
CREATE FUNCTION organizations_erased() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Both slices may be done at once: the second one waits here, and then sees the first.
    PERFORM FROM organizations WHERE id = NEW.org_id FOR UPDATE;
    IF (SELECT count(*) FROM erasures WHERE org_id = NEW.org_id AND done_at IS NOT NULL) = 2 THEN
        DELETE FROM api_keys WHERE org_id = NEW.org_id;
        UPDATE organizations SET status = 'erased' WHERE id = NEW.org_id AND status = 'erasing';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER erasures_done AFTER UPDATE OF done_at ON erasures
    FOR EACH ROW WHEN (NEW.done_at IS NOT NULL) EXECUTE FUNCTION organizations_erased();
