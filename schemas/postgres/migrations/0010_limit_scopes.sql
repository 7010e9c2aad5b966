-- Keys that one limited key makes, or that replace it, share its window: else each new key would start with an empty one.

ALTER TABLE api_keys
    -- The key whose window this one counts in; NULL: its own. Made by a key with a limit of its own, or by its rotation.
    ADD COLUMN limit_scope_id uuid;
