-- Endpoints: how webhooks authenticate to their receiver beside the signature, and a second signature.

ALTER TABLE endpoints
    -- What is shown of each: type and public members. NULL: none.
    ADD COLUMN auth jsonb,
    ADD COLUMN compat_signature jsonb,
    -- All of each, secrets included, sealed as the headers are.
    ADD COLUMN sealed_auth bytea,
    ADD COLUMN sealed_compat_signature bytea,
    ADD CONSTRAINT endpoints_auth_check CHECK ((auth IS NULL) = (sealed_auth IS NULL)),
    ADD CONSTRAINT endpoints_compat_signature_check
        CHECK ((compat_signature IS NULL) = (sealed_compat_signature IS NULL));
