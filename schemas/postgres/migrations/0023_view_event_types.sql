-- A page of one type reads only what it returns, however rare the type is.

-- An index of all events of the view may take minutes.
SET LOCAL statement_timeout = 0;

-- An unfinished rebuild lacks the indexes. It starts again.
DROP SCHEMA IF EXISTS view_next CASCADE;

CREATE INDEX events_open_type ON view.events (org_id, event_type, log_partition, log_epoch, log_offset)
    WHERE acknowledged_at IS NULL;
CREATE INDEX events_acknowledged_type ON view.events (org_id, event_type, log_partition, log_epoch, log_offset)
    WHERE acknowledged_at IS NOT NULL;
