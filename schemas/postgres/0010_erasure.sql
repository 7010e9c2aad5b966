-- Erasing an organization: its row stays as a tombstone ("erasing", then "erased"), everything else of it goes. The status alone stops its keys,
-- its records and its webhooks; taking the rows away is done afterwards, in batches, by the slices whose they are.

CREATE INDEX organizations_erasing ON organizations (id) WHERE status = 'erasing';
-- The dispatcher's: what waits to be sent for one organization, however many others have rows too.
CREATE INDEX delivery_schedule_org ON delivery_schedule (org_id);

-- How far each slice is. A slice writes its own rows only.
CREATE TABLE erasures (
    org_id     uuid        NOT NULL,
    consumer   text        NOT NULL CHECK (consumer IN ('materializer', 'dispatcher')),
    -- When the slice first saw the tombstone, which was committed by then.
    seen_at    timestamptz NOT NULL DEFAULT now(),
    -- Where the log ended some seconds later, one array per column; null until it was looked. Whatever an instance read and judged before it
    -- knew of the tombstone lies before: when the positions are there, no such thing can be written any more.
    topics     text[],
    partitions integer[],
    log_epochs integer[],
    ends       bigint[],
    -- When nothing of the organization was left with this slice.
    done_at    timestamptz,
    PRIMARY KEY (org_id, consumer)
);
CREATE VIEW contract.erasures AS SELECT org_id, consumer, done_at FROM erasures;

-- The dispatcher's: no endpoint outlives its organization. In the transaction of the tombstone, so that whoever reads the version of the endpoints
-- before an attempt sees it. The rows stay, emptied, like those of every deleted endpoint.
CREATE FUNCTION endpoints_erase() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_at bigint;
BEGIN
    UPDATE endpoints_version SET version = version + 1 RETURNING version INTO now_at;
    UPDATE endpoints
    SET deleted_at = COALESCE(deleted_at, now()), updated_at = now(), version = now_at,
        url = '', event_types = '{}', description = NULL, sealed_headers = NULL, sealed_secret = NULL
    WHERE org_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER organizations_erase_endpoints AFTER UPDATE OF status ON organizations
    FOR EACH ROW WHEN (OLD.status = 'active' AND NEW.status <> 'active') EXECUTE FUNCTION endpoints_erase();

-- Tenancy's: with the last slice's end the tombstone says so, and the keys go, which were dead before.
CREATE FUNCTION organizations_erased() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Both slices may end at once: the second waits here, and then sees the first.
    PERFORM FROM organizations WHERE id = NEW.org_id FOR UPDATE;
    IF (SELECT count(*) FROM contract.erasures WHERE org_id = NEW.org_id AND done_at IS NOT NULL) = 2 THEN
        DELETE FROM api_keys WHERE org_id = NEW.org_id;
        UPDATE organizations SET status = 'erased' WHERE id = NEW.org_id AND status = 'erasing';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER erasures_done AFTER UPDATE OF done_at ON erasures
    FOR EACH ROW WHEN (NEW.done_at IS NOT NULL) EXECUTE FUNCTION organizations_erased();
