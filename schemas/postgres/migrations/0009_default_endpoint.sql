-- The URL of an organization is that of its default endpoint, and is stored there only.

ALTER TABLE organizations DROP COLUMN webhook_url;
CREATE VIEW contract.default_endpoints AS
    SELECT org_id, url FROM endpoints WHERE is_default AND deleted_at IS NULL;
