-- name: tenant_urls
-- The tenants' own addresses.
SELECT tenant_id, url FROM leora_pipeline.tenant_alert_url ORDER BY tenant_id, url

-- name: add_tenant_url
-- Gives a tenant an address of its own.
INSERT INTO leora_pipeline.tenant_alert_url (tenant_id, url)
VALUES (:tenant_id, :url)
ON CONFLICT (tenant_id, url) DO NOTHING

-- name: remove_tenant_url
-- Takes an address from a tenant.
DELETE FROM leora_pipeline.tenant_alert_url WHERE tenant_id = :tenant_id AND url = :url
