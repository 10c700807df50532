-- name: create_tables
-- Creates the CRM's enums and tables as Prisma does, but for what create_keys adds.
CREATE TYPE "AccountType" AS ENUM ('ACTIVE', 'TARGET', 'PROSPECT', 'HOLD');

CREATE TYPE "OrderStatus" AS ENUM (
    'DRAFT', 'SUBMITTED', 'FULFILLED', 'CANCELLED', 'PARTIALLY_FULFILLED', 'PENDING',
    'READY_TO_DELIVER', 'PICKED', 'DELIVERED'
);

CREATE TABLE "Tenant" (
    "id" uuid NOT NULL,
    "slug" text NOT NULL,
    "name" text NOT NULL,
    "timezone" text NOT NULL DEFAULT 'America/New_York',
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3) NOT NULL,
    CONSTRAINT "Tenant_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "Customer" (
    "id" uuid NOT NULL,
    "tenantId" uuid NOT NULL,
    "name" text NOT NULL,
    "accountNumber" text,
    "billingEmail" text,
    "city" text,
    "state" text,
    "territory" text,
    "salesRepId" uuid,
    "lastOrderDate" timestamp(3),
    "accountType" "AccountType",
    "isPermanentlyClosed" boolean NOT NULL DEFAULT false,
    "csvImportedAt" timestamp(3),
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3) NOT NULL,
    CONSTRAINT "Customer_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "Order" (
    "id" uuid NOT NULL,
    "tenantId" uuid NOT NULL,
    "customerId" uuid NOT NULL,
    "orderNumber" text,
    "status" "OrderStatus" NOT NULL DEFAULT 'DRAFT',
    "orderedAt" timestamp(3),
    "total" numeric(12, 2),
    "currency" text NOT NULL DEFAULT 'USD',
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3) NOT NULL
);

CREATE TABLE "User" (
    "id" uuid NOT NULL,
    "tenantId" uuid NOT NULL,
    "email" text NOT NULL,
    "fullName" text NOT NULL,
    "hashedPassword" text NOT NULL,
    "isActive" boolean NOT NULL DEFAULT true,
    CONSTRAINT "User_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "User_tenantId_fkey"
        FOREIGN KEY ("tenantId") REFERENCES "Tenant" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE TABLE "SalesRep" (
    "id" uuid NOT NULL,
    "tenantId" uuid NOT NULL,
    "userId" uuid NOT NULL,
    "territoryName" text NOT NULL,
    "isActive" boolean NOT NULL DEFAULT true,
    CONSTRAINT "SalesRep_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "SalesRep_tenantId_fkey"
        FOREIGN KEY ("tenantId") REFERENCES "Tenant" ("id") ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT "SalesRep_userId_fkey"
        FOREIGN KEY ("userId") REFERENCES "User" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE UNIQUE INDEX "Tenant_slug_key" ON "Tenant" ("slug");
CREATE UNIQUE INDEX "SalesRep_userId_key" ON "SalesRep" ("userId");

-- name: create_keys
-- Creates the keys and indexes that cost more to keep up during a load than to make after it.
ALTER TABLE "Order" ADD CONSTRAINT "Order_pkey" PRIMARY KEY ("id");

CREATE UNIQUE INDEX "Order_orderNumber_key" ON "Order" ("orderNumber");
CREATE INDEX "Order_tenantId_idx" ON "Order" ("tenantId");
CREATE INDEX "Order_customerId_orderedAt_idx" ON "Order" ("customerId", "orderedAt" DESC);
CREATE INDEX "Customer_tenantId_idx" ON "Customer" ("tenantId");

ALTER TABLE "Customer" ADD CONSTRAINT "Customer_tenantId_fkey"
    FOREIGN KEY ("tenantId") REFERENCES "Tenant" ("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "Order" ADD CONSTRAINT "Order_tenantId_fkey"
    FOREIGN KEY ("tenantId") REFERENCES "Tenant" ("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "Order" ADD CONSTRAINT "Order_customerId_fkey"
    FOREIGN KEY ("customerId") REFERENCES "Customer" ("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- name: drop_keys
-- Drops what create_keys creates.
ALTER TABLE "Order" DROP CONSTRAINT "Order_customerId_fkey";
ALTER TABLE "Order" DROP CONSTRAINT "Order_tenantId_fkey";
ALTER TABLE "Customer" DROP CONSTRAINT "Customer_tenantId_fkey";

DROP INDEX "Customer_tenantId_idx";
DROP INDEX "Order_customerId_orderedAt_idx";
DROP INDEX "Order_tenantId_idx";
DROP INDEX "Order_orderNumber_key";

ALTER TABLE "Order" DROP CONSTRAINT "Order_pkey";
