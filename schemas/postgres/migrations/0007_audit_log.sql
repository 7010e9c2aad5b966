-- Who changed what. A change and its entry are written in one transaction.

CREATE TABLE audit_log (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id     uuid        NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    actor      text        NOT NULL CHECK (actor IN ('key', 'operator', 'command_line', 'system', 'anonymous')),
    -- Of the key that made the change. The prefix is copied: it outlives the key.
    key_id     uuid        CHECK ((key_id IS NOT NULL) = (actor = 'key')),
    key_prefix text        CHECK (char_length(key_prefix) = 17),
    -- Such as key.revoked.
    action     text        NOT NULL CHECK (action ~ '^[a-z_]{1,30}\.[a-z_]{1,30}$'),
    -- The id of what was changed.
    target     uuid        NOT NULL,
    -- What changed; never a secret.
    detail     jsonb       NOT NULL CHECK (octet_length(detail::text) <= 65536),
    address    inet,
    request_id text        CHECK (char_length(request_id) <= 128)
);
CREATE INDEX audit_log_org ON audit_log (org_id, id DESC);
CREATE INDEX audit_log_at ON audit_log (at);

COMMENT ON TABLE audit_log IS
    'Append-only. Rows are deleted only when their organization is erased, or when they are older than '
    'audit_retention().';

CREATE FUNCTION audit_retention() RETURNS interval LANGUAGE sql IMMUTABLE AS $$ SELECT interval '400 days' $$;

-- The rule looks at the row and its organization only, so that no setting of a session can lift it.
CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.at < now() - audit_retention()
            OR EXISTS (SELECT FROM organizations WHERE id = OLD.org_id AND status = 'erasing') THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();

-- The contract for every slice: appends an entry in the transaction of the change. key: NULL unless actor is key.
CREATE FUNCTION audit_append(org uuid, actor text, key uuid, action text, target uuid, detail jsonb, address text,
                             request text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO audit_log (org_id, actor, key_id, key_prefix, action, target, detail, address, request_id)
    VALUES (org, actor, key, (SELECT prefix FROM api_keys WHERE id = key), action, target, detail, address::inet,
            request)
$$;

-- As in 0002, and the name, which may be a person's, becomes the id; the entries are deleted but for the last one.
CREATE OR REPLACE FUNCTION organizations_erased() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Both slices may be done at once: the second one waits here, and then sees the first.
    PERFORM FROM organizations WHERE id = NEW.org_id FOR UPDATE;
    IF (SELECT count(*) FROM erasures WHERE org_id = NEW.org_id AND done_at IS NOT NULL) = 2
        AND EXISTS (SELECT FROM organizations WHERE id = NEW.org_id AND status = 'erasing') THEN
        DELETE FROM api_keys WHERE org_id = NEW.org_id;
        DELETE FROM audit_log WHERE org_id = NEW.org_id;
        UPDATE organizations SET status = 'erased', name = id::text WHERE id = NEW.org_id;
        PERFORM audit_append(NEW.org_id, 'system', NULL, 'organization.erased', NEW.org_id, '{}', NULL, NULL);
    END IF;
    RETURN NULL;
END
$$;
