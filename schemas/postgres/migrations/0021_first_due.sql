-- No claim reads what is done: until a vacuum, the index of what is due has the entries of finished rows too. A snapshot
-- that is kept for long, as that of a backup, keeps a vacuum from removing them.

ALTER TABLE endpoint_queues
    -- No row without a lane that can be claimed is due before. Raised by who has claimed.
    ADD COLUMN first_due_at timestamptz NOT NULL DEFAULT '-infinity';

-- Lowered here, so that dispatchers of the version before may still run. While a queue is held, next_due_at is not
-- lowered for what is added. A millisecond is more than the rounding of a time.
CREATE FUNCTION lower_first_due() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.first_due_at := CASE WHEN OLD.is_held AND NOT NEW.is_held THEN '-infinity'
                             ELSE least(NEW.first_due_at, NEW.next_due_at - interval '1 ms') END;
    RETURN NEW;
END
$$;

CREATE TRIGGER lower_first_due BEFORE UPDATE ON endpoint_queues
    FOR EACH ROW EXECUTE FUNCTION lower_first_due();
