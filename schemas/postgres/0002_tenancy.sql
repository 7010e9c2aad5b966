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
