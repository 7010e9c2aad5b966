-- Endpoints: filters, rotated secrets, loops that end, bounded changes, and rows that are purged.

ALTER TABLE endpoints
    -- Conditions on the payload; NULL: none.
    ADD COLUMN filter json,
    -- The secret before the last rotation, sealed like the other, and until when it signs.
    ADD COLUMN sealed_previous_secret bytea,
    ADD COLUMN previous_expires_at timestamptz,
    ADD CONSTRAINT endpoints_previous_secret_check
        CHECK ((sealed_previous_secret IS NULL) = (previous_expires_at IS NULL));

-- Dispatchers read pages by (version, id): all changes, or from nothing all that are not deleted.
DROP INDEX endpoints_changed;
CREATE INDEX endpoints_changed ON endpoints (version, id);
CREATE INDEX endpoints_live ON endpoints (version, id) WHERE deleted_at IS NULL;
CREATE INDEX endpoints_deleted ON endpoints (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX endpoints_previous_secret ON endpoints (previous_expires_at) WHERE previous_expires_at IS NOT NULL;

-- The highest version of a row that was purged. A dispatcher that knows an older version may miss deletions, so it
-- reads all endpoints again.
ALTER TABLE endpoints_version ADD COLUMN purged_version bigint NOT NULL DEFAULT 0;

CREATE TABLE endpoint_changes (
    org_id     uuid        PRIMARY KEY,
    -- An hour begins with its first change.
    started_at timestamptz NOT NULL,
    changes    integer     NOT NULL
) WITH (fillfactor = 70);

COMMENT ON TABLE endpoint_changes IS
    'How often each organization has changed its endpoints in the current hour. The routes refuse more than a bound: '
    'every dispatcher reads every change, and changes wait for each other.';
