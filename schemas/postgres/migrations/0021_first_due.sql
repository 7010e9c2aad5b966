-- No claim reads what is done: until a vacuum, the index of what is due has the entries of finished rows too. A snapshot
-- that is kept for long, as that of a backup, keeps a vacuum from removing them.

ALTER TABLE endpoint_queues
    -- No row without a lane that can be claimed is due before. Lowered as next_due_at is; raised by who has claimed.
    ADD COLUMN first_due_at timestamptz NOT NULL DEFAULT '-infinity';
