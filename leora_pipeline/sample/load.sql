-- name: allow_memory
-- Gives the transaction the memory that sorting the orders and building the indexes takes.
SELECT
    set_config('work_mem', '256MB', true),
    set_config('maintenance_work_mem', '256MB', true);

-- name: insert_tenants
-- Inserts the tenants.
INSERT INTO "Tenant" ("id", "slug", "name", "timezone", "createdAt", "updatedAt")
SELECT
    md5(concat_ws('/', CAST(:seed AS int), tenant.slug))::uuid,
    tenant.slug,
    tenant.name,
    tenant.timezone,
    CAST(:anchor AS timestamp) - interval '4 years',
    CAST(:anchor AS timestamp) - interval '4 years'
FROM
    unnest(CAST(:slugs AS text[]), CAST(:names AS text[]), CAST(:timezones AS text[]))
        AS tenant (slug, name, timezone);

-- name: create_plan
-- Creates the plan that the customers and their orders are made from. Days count back from the
-- anchor's day. A customer's orders are numbered by slot: 0 is its last order that counts, 1 and up
-- are older ones, and below 0 are traps: younger ones that must not count.
CREATE TEMPORARY TABLE sample_customer (
    customer_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    slug text NOT NULL,
    place integer NOT NULL,          -- among the tenant's customers of the same type
    hold boolean NOT NULL,
    dice bigint NOT NULL,            -- 64 random bits
    imported boolean NOT NULL,
    last_day integer,                -- of the last order that counts, or the imported date
    created_day integer NOT NULL,
    orders integer NOT NULL,         -- slots from 0 up
    cadence integer NOT NULL,        -- days between those
    traps integer NOT NULL,          -- slots below 0
    first_trap integer NOT NULL,     -- 0 cancelled, 1 draft, 2 without a date, 3 in the future
    quiet_days integer NOT NULL,     -- days up to the anchor with no order that counts
    cancelled_since boolean NOT NULL -- the CRM still holds the date of an order cancelled since
);

-- name: plan_customers
-- Plans each tenant's customers so that the rule gives exactly the counts asked for, from the
-- anchor until two days after it: no customer's last order comes near a threshold. What is to be
-- there in every tenant goes by place, what is only to vary by dice.
INSERT INTO sample_customer
SELECT
    md5(identity)::uuid,
    "Tenant"."id",
    slug,
    place,
    kind = 'HOLD',
    dice,
    past = 'imported',
    last_day,
    created_day,
    orders,
    cadence,
    traps,
    CASE past WHEN 'uncounted' THEN place % 4 ELSE place / 8 % 4 END,
    coalesce(last_day, created_day),
    -- One in six of those whose trap is a cancelled order, and none in small tenants.
    past = 'ordering' AND place % 192 = 162
FROM
    unnest(
        CAST(:slugs AS text[]), CAST(:active AS int[]), CAST(:target AS int[]),
        CAST(:prospect AS int[]), CAST(:hold AS int[])
    ) AS tenant (slug, active, target, prospect, hold)
    JOIN "Tenant" USING (slug)
    CROSS JOIN LATERAL (VALUES
        ('ACTIVE', tenant.active), ('TARGET', tenant.target), ('PROSPECT', tenant.prospect),
        ('HOLD', tenant.hold)
    ) AS share (kind, customers)
    CROSS JOIN LATERAL generate_series(1, share.customers) AS place
    CROSS JOIN (SELECT CAST(:orders_per_customer AS int) AS average) AS asked
    CROSS JOIN LATERAL (
        SELECT concat_ws('/', CAST(:seed AS int), tenant.slug, share.kind, place) AS identity
    ) AS named
    CROSS JOIN LATERAL (SELECT hashtextextended(identity, 0) AS dice) AS thrown
    CROSS JOIN LATERAL (
        SELECT
            CASE share.kind
                WHEN 'ACTIVE' THEN CASE place % 40 WHEN 7 THEN 'imported' ELSE 'ordering' END
                WHEN 'TARGET' THEN CASE place % 12 WHEN 5 THEN 'imported' ELSE 'ordering' END
                WHEN 'HOLD' THEN CASE place % 10 WHEN 3 THEN 'imported' ELSE 'ordering' END
                ELSE CASE
                    WHEN place * 7 % 20 < 7 THEN 'never'
                    WHEN place * 7 % 20 < 10 THEN 'uncounted'
                    WHEN place * 7 % 20 < 12 THEN 'imported'
                    ELSE 'ordering'
                END
            END AS past,
            CASE share.kind
                WHEN 'HOLD' THEN (ARRAY['ACTIVE', 'TARGET', 'PROSPECT'])[place % 3 + 1]
                ELSE share.kind
            END AS outcome
    ) AS history
    CROSS JOIN LATERAL (
        SELECT
            CASE
                WHEN past IN ('never', 'uncounted') THEN NULL
                WHEN outcome = 'ACTIVE' THEN 2 + (175 * ((dice & 1023) / 1024.0) ^ 2)::int
                WHEN outcome = 'TARGET' THEN 181 + (dice & 65535)::int % 182
                ELSE 366 + (dice & 65535)::int % 600
            END AS last_day
    ) AS latest
    CROSS JOIN LATERAL (
        SELECT
            CASE past
                WHEN 'ordering' THEN 1 + (dice >> 16 & 65535)::int % (2 * average - 1)
                ELSE 0
            END AS orders,
            CASE
                WHEN past = 'ordering' AND place % 8 = 2 THEN 1
                WHEN past = 'uncounted' THEN 1 + (dice >> 16 & 65535)::int % 3
                ELSE 0
            END AS traps
    ) AS amount
    CROSS JOIN LATERAL (
        SELECT
            CASE past
                WHEN 'ordering' THEN greatest(
                    1, least(20 + (dice >> 32 & 65535)::int % 100, (1095 - last_day) / orders)
                )
                ELSE 1
            END AS cadence
    ) AS rhythm
    CROSS JOIN LATERAL (
        SELECT
            CASE past
                WHEN 'ordering' THEN last_day + orders * cadence + (dice >> 48 & 65535)::int % 365
                WHEN 'imported' THEN 1 + (dice >> 48 & 65535)::int % (last_day - 1)
                ELSE 5 + (dice >> 48 & 65535)::int % 1000
            END AS created_day
    ) AS signed_up;

-- name: insert_orders
-- Inserts the planned customers' orders in the order in which they were created, as a table grows
-- in life, and numbers them in that order; a draft has no number yet.
INSERT INTO "Order" (
    "id", "tenantId", "customerId", "orderNumber", "status", "orderedAt", "total", "createdAt",
    "updatedAt"
)
SELECT
    md5(customer_id::text || slot)::uuid,
    tenant_id,
    customer_id,
    CASE WHEN status <> 'DRAFT' THEN
        slug || '-' || row_number() OVER (ORDER BY created_at, dice)
    END,
    status,
    ordered_at,
    (4000 + (dice >> 40 & 262143)) * 0.01,
    created_at,
    least(created_at + (dice >> 20 & 255) * interval '30 minutes', CAST(:anchor AS timestamp))
FROM (
    SELECT
        customer_id,
        tenant_id,
        slug,
        slot,
        dice,
        CASE
            WHEN trap = 0 THEN 'CANCELLED'
            WHEN trap = 1 THEN 'DRAFT'
            WHEN trap = 2 THEN (ARRAY['DRAFT', 'SUBMITTED'])[1 + (dice & 1)]
            WHEN trap = 3 THEN (ARRAY['SUBMITTED', 'PENDING'])[1 + (dice & 1)]
            WHEN slot > 0 AND dice & 31 = 0 THEN 'DRAFT'
            WHEN slot > 0 AND dice & 31 <= 2 THEN 'CANCELLED'
            WHEN day < 14 THEN (ARRAY[
                'SUBMITTED', 'PENDING', 'READY_TO_DELIVER', 'PICKED', 'PARTIALLY_FULFILLED',
                'DELIVERED', 'DELIVERED', 'DELIVERED'
            ])[1 + (dice >> 5 & 7)]
            ELSE (ARRAY[
                'DELIVERED', 'DELIVERED', 'DELIVERED', 'DELIVERED', 'DELIVERED', 'FULFILLED',
                'FULFILLED', 'PARTIALLY_FULFILLED'
            ])[1 + (dice >> 5 & 7)]
        END::"OrderStatus" AS status,
        CASE WHEN trap = 2 THEN NULL ELSE moment END AS ordered_at,
        CASE
            -- Dated ahead, and entered within the last weeks.
            WHEN trap = 3 THEN
                moment - (1 - day + draw % least(20, quiet_days - 1)) * interval '1 day'
            -- Back-dated: entered months later.
            WHEN slot >= 0 AND day > 150 AND dice >> 51 & 63 = 0 THEN
                moment + (60 + draw % 64) * interval '1 day'
            ELSE moment - (dice >> 57 & 127) * interval '1 minute'
        END AS created_at
    FROM (
        -- Within business hours everywhere in the United States: seven hours from 15:00 UTC.
        SELECT
            *,
            date_trunc('day', CAST(:anchor AS timestamp)) + interval '15 hours'
                + ((dice >> 26 & 33554431) % 25200000 - day * 86400000::bigint)
                * interval '1 millisecond' AS moment
        FROM (
            SELECT
                *,
                CASE
                    WHEN slot = 0 THEN last_day
                    WHEN slot > 0 THEN last_day + slot * cadence + draw % cadence
                    WHEN trap = 3 THEN -4 - draw % 30
                    ELSE 1 + draw % (quiet_days - 1)
                END AS day
            FROM (
                SELECT
                    *,
                    (dice >> 10 & 65535)::int AS draw,
                    CASE WHEN slot < 0 THEN (first_trap - slot - 1) % 4 END AS trap
                FROM (
                    SELECT *, hashint8extended(slot, customer_dice) AS dice
                    FROM (
                        SELECT
                            customer_id,
                            tenant_id,
                            slug,
                            dice AS customer_dice,
                            last_day,
                            cadence,
                            first_trap,
                            quiet_days,
                            generate_series(-traps, orders - 1) AS slot
                        FROM sample_customer
                    ) AS numbered
                ) AS thrown
            ) AS drawn
        ) AS dated
    ) AS timed
) AS entered
ORDER BY created_at, dice;

-- name: insert_customers
-- Inserts the planned customers in the order in which they signed up, each with the type and date
-- that a script run once, 240 days before the anchor, left behind: what the rule gave of the orders
-- that were there then.
INSERT INTO "Customer" (
    "id", "tenantId", "name", "accountNumber", "billingEmail", "city", "state", "territory",
    "salesRepId", "lastOrderDate", "accountType", "isPermanentlyClosed", "csvImportedAt",
    "createdAt", "updatedAt"
)
SELECT
    customer_id,
    tenant_id,
    name,
    CASE WHEN dice & 15 > 0 THEN 'A-' || 10000 + number END,
    CASE WHEN dice & 7 > 0 THEN
        'orders@' || lower(translate(name, ' &', '')) || '.example'
    END,
    (ARRAY[
        'New York', 'Brooklyn', 'Albany', 'Buffalo', 'Boston', 'Cambridge', 'Providence',
        'Hartford', 'Philadelphia', 'Pittsburgh', 'Hoboken', 'Princeton', 'Baltimore', 'Annapolis',
        'Richmond', 'Norfolk'
    ])[1 + town],
    (ARRAY[
        'NY', 'NY', 'NY', 'NY', 'MA', 'MA', 'RI', 'CT', 'PA', 'PA', 'NJ', 'NJ', 'MD', 'MD', 'VA',
        'VA'
    ])[1 + town],
    (ARRAY['Empire', 'New England', 'Mid-Atlantic', 'Chesapeake'])[1 + town / 4],
    CASE WHEN dice >> 40 & 15 > 0 THEN
        md5(concat_ws('/', tenant_id, 'representative', dice >> 44 & 7))::uuid
    END,
    CASE
        WHEN imported THEN imported_at
        WHEN cancelled_since THEN cancelled_at
        WHEN place % 10 <> 9 THEN seen_at
    END,
    CASE
        WHEN hold THEN 'HOLD'
        WHEN created_at > script_at THEN NULL
        WHEN seen_at >= script_at - interval '180 days' THEN 'ACTIVE'
        WHEN seen_at >= script_at - interval '365 days' THEN 'TARGET'
        ELSE 'PROSPECT'
    END::"AccountType",
    dice >> 24 & CASE WHEN last_day > 365 THEN 15 ELSE 255 END = 0,
    CASE WHEN imported THEN created_at END,
    created_at,
    greatest(created_at, script_at)
FROM (
    SELECT
        *,
        CASE WHEN imported THEN imported_at ELSE ordered_at END AS seen_at,
        concat_ws(
            ' ',
            (ARRAY[
                'Harbor', 'Old', 'Copper', 'Juniper', 'Silver', 'Stone', 'Golden', 'Maple', 'River',
                'Blue', 'Lantern', 'Orchard', 'Union', 'Market', 'Cedar', 'Velvet', 'Crescent',
                'North', 'Willow', 'Iron', 'Amber', 'Garden', 'Liberty', 'Foundry', 'Rose', 'Canal',
                'Grand', 'Little', 'Hidden', 'Village', 'Summer', 'Corner'
            ])[1 + (mixed & 31)],
            (ARRAY[
                'Light', 'Oak', 'Vine', 'Fox', 'Anchor', 'Barrel', 'Table', 'Cork', 'Bridge',
                'Lark', 'Hearth', 'Mill', 'Thistle', 'Gate', 'Heron', 'Cellar', 'Plum', 'Bell',
                'Crown', 'Hill', 'Sparrow', 'Rooster', 'Fig', 'Star', 'Field', 'Station', 'Olive',
                'Wharf', 'Pear', 'Square', 'Lion', 'Moon'
            ])[1 + (mixed >> 5 & 31)],
            (ARRAY[
                'Wine Bar', 'Bistro', 'Tavern', 'Wine & Spirits', 'Bottle Shop', 'Grill', 'Hotel',
                'Liquors', 'Restaurant', 'Oyster Bar', 'Trattoria', 'Brasserie', 'Taproom',
                'Lounge', 'Market', 'Kitchen'
            ])[1 + (mixed >> 10 & 15)]
        ) AS name
    FROM (
        SELECT
            *,
            (dice >> 28 & 15)::int AS town,
            number * 7919 + hashtext(slug) AS mixed -- odd factor: no name twice in 16384
        FROM (
            SELECT
                *,
                row_number() OVER (PARTITION BY tenant_id ORDER BY created_at, customer_id)
                    AS number
            FROM (
                SELECT
                    *,
                    noon - created_day * interval '1 day' AS created_at,
                    noon - last_day * interval '1 day' AS imported_at
                FROM (
                    SELECT
                        *,
                        CAST(:anchor AS timestamp) - interval '240 days' AS script_at,
                        date_trunc('day', CAST(:anchor AS timestamp)) + interval '15 hours'
                            + (dice & 16777215) * interval '1 millisecond' AS noon
                    FROM sample_customer
                ) AS timed
            ) AS signed_up
        ) AS numbered
    ) AS mixed_up
    LEFT JOIN (
        SELECT
            "customerId" AS customer_id,
            max("orderedAt") FILTER (
                WHERE "status" NOT IN ('DRAFT', 'CANCELLED')
                AND greatest("orderedAt", "createdAt")
                    <= CAST(:anchor AS timestamp) - interval '240 days'
            ) AS ordered_at,
            max("orderedAt") FILTER (WHERE "status" = 'CANCELLED') AS cancelled_at
        FROM "Order"
        GROUP BY "customerId"
    ) AS ordered USING (customer_id)
) AS named
ORDER BY created_at, customer_id;

-- name: insert_sales_reps
-- Inserts the sales reps whom customers name, each with its user.
WITH reps AS (
    SELECT
        t."id" AS tenant_id,
        md5(concat_ws('/', t."id", 'representative', n))::uuid AS rep_id,
        md5(concat_ws('/', t."id", 'user', n))::uuid AS user_id,
        (ARRAY[
            'Ann Miller', 'Ben Ortiz', 'Carla Rossi', 'Dev Patel', 'Elena Novak', 'Frank Osei',
            'Grace Kim', 'Hugo Laurent'
        ])[1 + n] AS name,
        (ARRAY['Empire', 'New England', 'Mid-Atlantic', 'Chesapeake'])[1 + n / 2] AS territory
    FROM "Tenant" AS t
    CROSS JOIN generate_series(0, 7) AS n
    WHERE t."slug" = ANY (:slugs)
),
users AS (
    INSERT INTO "User" ("id", "tenantId", "email", "fullName", "hashedPassword")
    SELECT user_id, tenant_id, lower(replace(name, ' ', '.')) || '@wholesaler.example', name, '!'
    FROM reps
)
INSERT INTO "SalesRep" ("id", "tenantId", "userId", "territoryName")
SELECT rep_id, tenant_id, user_id, territory
FROM reps;

-- name: drop_plan
-- Drops the plan.
DROP TABLE sample_customer;

-- name: analyze_tables
-- Tells the planner what the tables now hold.
ANALYZE "Tenant", "Customer", "Order", "SalesRep", "User";
