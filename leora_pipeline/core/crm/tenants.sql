-- name: tenants
-- All tenants, in the order in which people read them.
SELECT id, slug, timezone FROM "Tenant" ORDER BY slug
