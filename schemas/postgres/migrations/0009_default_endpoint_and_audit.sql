-- The URL of an organization is that of its default endpoint, and is stored there only.

ALTER TABLE organizations DROP COLUMN webhook_url;
CREATE VIEW contract.default_endpoints AS
    SELECT org_id, url FROM endpoints WHERE is_default AND deleted_at IS NULL;

-- The audit log: entries of an organization become visible in the order of their ids, and their number is bounded.

ALTER TABLE audit_log DROP CONSTRAINT audit_log_actor_check, DROP CONSTRAINT audit_log_detail_check;
ALTER TABLE audit_log
    ADD CONSTRAINT audit_log_actor_check
        CHECK (actor IN ('key', 'operator', 'configuration', 'system', 'anonymous')),
    -- A hundred event types of 255 characters of four bytes fit.
    ADD CONSTRAINT audit_log_detail_check CHECK (octet_length(detail::text) <= 131072),
    -- Only these can be written by a tenant in any number. They are counted and bounded apart from the others.
    ADD COLUMN by_key boolean NOT NULL GENERATED ALWAYS AS (actor = 'key') STORED,
    -- Counts the entries of the organization with the same by_key. 0: from before this column.
    ADD COLUMN number bigint NOT NULL DEFAULT 0;
CREATE INDEX audit_log_number ON audit_log (org_id, by_key, number);

CREATE TABLE audit_counts (
    org_id    uuid   PRIMARY KEY,
    -- The last number of the entries of its keys, and of all others.
    by_keys   bigint NOT NULL DEFAULT 0,
    by_others bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);

COMMENT ON TABLE audit_counts IS
    'One row for each organization with audit entries. Appending locks it until the end of the transaction, so ids '
    'become visible in order: a reader that pages by id misses no entry that was committed late.';

CREATE TABLE audit_settings (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- How many of its keys' entries an organization keeps, and how many others.
    entries  integer NOT NULL CHECK (entries >= 1000)
);
INSERT INTO audit_settings (entries) VALUES (10000);

-- The oldest number that is kept is greater than this one.
CREATE FUNCTION audit_passed(org uuid, of_key boolean) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN of_key THEN c.by_keys ELSE c.by_others END - s.entries
    FROM audit_counts c CROSS JOIN audit_settings s WHERE c.org_id = org
$$;

CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
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

COMMENT ON TABLE audit_log IS
    'Append-only. Rows are deleted only when their organization is erased, when they are older than '
    'audit_retention(), or when audit_settings.entries newer ones of the same kind exist.';

-- Appends an entry, and deletes some of the entries beyond the bound. The lock comes before the id and the time.
CREATE OR REPLACE FUNCTION audit_append(org uuid, actor text, key uuid, action text, target uuid, detail jsonb,
                                        address text, request text) RETURNS void LANGUAGE plpgsql AS $$
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

CREATE OR REPLACE FUNCTION organizations_erased() RETURNS trigger LANGUAGE plpgsql AS $$
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
