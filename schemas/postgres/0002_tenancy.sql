-- Who may do what. Written by the tenancy slice alone.
CREATE TABLE organizations (
    id                    uuid        PRIMARY KEY,
    name                  text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    tier                  text        NOT NULL DEFAULT 'free' CHECK (tier IN ('free', 'pro', 'business', 'enterprise')),
    -- Null: the tier's. 0: unlimited.
    rate_limit_per_minute integer     CHECK (rate_limit_per_minute >= 0),
    webhook_url           text,
    -- active, erasing, erased: a tombstone outlives the longest retention.
    status                text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'erasing', 'erased')),
    created_at            timestamptz NOT NULL DEFAULT now()
);
-- Names are not unique. This one serves the look-up by name for development keys.
CREATE INDEX organizations_name ON organizations (name);

CREATE TABLE api_keys (
    id                    uuid        PRIMARY KEY,
    org_id                uuid        NOT NULL REFERENCES organizations (id),
    name                  text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    role                  text        NOT NULL CHECK (role IN ('produce', 'consume', 'manage', 'admin')),
    -- live and test name the form of the key. A development key comes from configuration and has any form; it counts only in a process
    -- whose own configuration lists it.
    environment           text        NOT NULL CHECK (environment IN ('live', 'test', 'development')),
    -- What is shown of a key, and what finds it.
    prefix                text COLLATE "C" NOT NULL CHECK (char_length(prefix) = 17),
    -- SHA-256 of the key; the key itself is nowhere. Plain SHA-256 is enough: a key is random, not a password.
    hash                  bytea       NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    -- Null: every event type.
    event_types           text[] COLLATE "C" CHECK (cardinality(event_types) > 0),
    -- Null: the organization's. 0: unlimited. Anything else only narrows the organization's.
    rate_limit_per_minute integer     CHECK (rate_limit_per_minute >= 0),
    content_dedup         boolean     NOT NULL DEFAULT false,
    created_at            timestamptz NOT NULL DEFAULT now(),
    expires_at            timestamptz,
    revoked_at            timestamptz
);
CREATE INDEX api_keys_prefix ON api_keys (prefix);
CREATE INDEX api_keys_org ON api_keys (org_id, created_at DESC, id);

-- Counts every change that can take a right away from somebody whose key is cached. Its one row makes such changes take turns, so
-- that versions commit in their order: who has heard of n and reads n has missed nothing.
CREATE TABLE tenancy_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
) WITH (fillfactor = 25);
INSERT INTO tenancy_version (version) VALUES (0);

-- Tells every instance which cached keys to forget. It hangs on the tables, not on the program, so that a change made by hand counts too.
-- The message: version, what changed (key, organization), its id.
CREATE FUNCTION tenancy_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_at bigint;
BEGIN
    UPDATE tenancy_version SET version = version + 1 RETURNING version INTO now_at;
    PERFORM pg_notify('tenancy', now_at || ' ' || TG_ARGV[0] || ' ' || OLD.id);
    RETURN NULL;
END
$$;

-- Not on INSERT: a new key or organization is cached nowhere.
CREATE TRIGGER api_keys_changed AFTER UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION tenancy_changed('key');
CREATE TRIGGER organizations_changed AFTER UPDATE OR DELETE ON organizations
    FOR EACH ROW EXECUTE FUNCTION tenancy_changed('organization');
