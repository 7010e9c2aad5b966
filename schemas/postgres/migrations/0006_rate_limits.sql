-- How many requests were admitted lately. Only the tenancy slice writes these tables.

CREATE TABLE rate_limits (
    -- The id of an organization, or of a key that has a limit of its own.
    scope         uuid   PRIMARY KEY,
    -- The number of the newest bucket: the time of this server since 1970 in lengths of a bucket, which is one second.
    newest_bucket bigint NOT NULL,
    -- Tokens leased in each bucket that counts, newest first, four bytes each, least significant first. Unspent tokens
    -- that were given back are not in it.
    counts        bytea  NOT NULL
) WITH (fillfactor = 25);

COMMENT ON TABLE rate_limits IS
    'The sliding window of each limit, which all instances share. A row that no longer counts is deleted: nothing here '
    'is worth a backup.';

CREATE TABLE rate_limit_instances (
    instance uuid        PRIMARY KEY,
    seen_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 25);

COMMENT ON TABLE rate_limit_instances IS
    'The processes that limit rates, each with the time of its last report. While this server does not answer, each '
    'admits its part of every limit.';
