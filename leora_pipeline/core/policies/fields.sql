-- name: order_statuses
-- The statuses that an order of the CRM can have.
SELECT e.enumlabel
FROM pg_attribute AS a
JOIN pg_enum AS e ON e.enumtypid = a.atttypid
WHERE a.attrelid = to_regclass('"Order"') AND a.attname = 'status'
ORDER BY e.enumsortorder
