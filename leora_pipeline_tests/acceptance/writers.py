"""A writer to the CRM, as one of its application's processes: every change there is, at random.

Run as ``python -m leora_pipeline_tests.acceptance.writers URL SEED SECONDS``; it ends with exit
code 0 and a count of what it did, or with a traceback at the first error. What belongs here: what
the CRM's application may do. What it set by hand it records, so that the log can be checked.

Writers cannot deadlock among themselves: each transaction first takes advisory locks on all of its
customers, in one order. Those that only add orders share them, so that such transactions overlap,
the ones that stay open for a while and call the hook too.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID, uuid4

import psycopg
import sqlalchemy as sa

from leora_pipeline import OrderCreated, after_order_create_batch
from leora_pipeline.core.database.engine import create_engine

OPEN, DEFAULT = "open", "default"
"""How a tenant's slug begins: the gate is open, or has its default limits, which nobody exceeds."""

BY_HAND = """
CREATE SCHEMA by_hand;
CREATE TABLE by_hand.change (
  change_id bigint PRIMARY KEY,
  customer_id uuid NOT NULL,
  from_type text,
  to_type text
);
"""
"""What the writers set by hand, numbered from the log's own sequence, while they hold the customer:
so that both together are each customer's history, in the order in which it happened."""

RECORD = """
INSERT INTO by_hand.change (change_id, customer_id, from_type, to_type) VALUES (
  nextval(pg_get_serial_sequence('leora_pipeline.account_type_transition', 'transition_id')),
  %s, %s, %s
)
"""

ADD_ORDER = """
INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt")
SELECT gen_random_uuid(), "tenantId", id, %s, %s, now() FROM "Customer" WHERE id = ANY (%s)
"""

HOOK = "SELECT outcome FROM leora_pipeline.after_order_create(%s)"

AGES = (0.01, 1, 20, 100, 170, 190, 250, 350, 380, 600)
"""Days ago, all well off the thresholds."""

LONGEST_OPEN = 0.5
"""Seconds that a transaction is left open at most."""

MANY = 20
HOT = 5
"""Most of the time it is about so few customers, so that all meet at them."""


class Rollback(Exception):
    """The application changed its mind."""


class Writer:
    """One of the application's processes."""

    def __init__(self, url: str, seed: int) -> None:
        self.random = Random(seed)
        self.connection = psycopg.connect(url, autocommit=True)
        self.connection.add_notice_handler(self._heard)
        self.engine = create_engine(url)
        self.done: Counter[str] = Counter()
        self.warnings: list[str] = []

    def _heard(self, notice: psycopg.errors.Diagnostic) -> None:
        self.warnings.append(f"{notice.severity}: {notice.message_primary}")

    def run(self, seconds: float) -> None:
        """Writes for so long, as if somebody clicked now here, now there."""
        kinds = {
            self.add_orders: 12,
            self.add_orders_and_call_python: 3,
            self.change_orders: 6,
            self.delete_orders: 2,
            self.move_order: 3,
            self.set_type: 4,
            self.add_customer: 2,
            self.delete_customer: 1,
            self.change_many: 1,
        }
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            (kind,) = self.random.choices(list(kinds), list(kinds.values()))
            try:
                kind()
            except Rollback:
                self.done["rolled back"] += 1
            self.done[kind.__name__] += 1
            if self.warnings:
                raise AssertionError(f"{kind.__name__}: {self.warnings}")
            time.sleep(self.random.uniform(0, 0.005))
        self.connection.close()
        self.engine.dispose()

    def customers(self, count: int, slug: str = "") -> list[UUID]:
        """Returns some customers of the tenants whose slug begins so."""
        rows = self.connection.execute(
            'SELECT c.id FROM "Customer" AS c JOIN "Tenant" AS t ON t.id = c."tenantId" '
            "WHERE t.slug LIKE %s ORDER BY c.id",
            [f"{slug}%"],
        ).fetchall()
        ids = [row[0] for row in rows]
        if self.random.random() < 0.7 and count <= HOT:
            ids = ids[:HOT]
        return self.random.sample(ids, min(count, len(ids)))

    @contextmanager
    def transaction(self, customers: Sequence[UUID], *, shared: bool = False) -> Iterator[None]:
        """Opens a transaction on customers, whom nobody then has who would not share them."""
        lock = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        with self.connection.transaction():
            for key in sorted({customer.int & 0x7FFFFFFF for customer in customers}):
                self.connection.execute(f"SELECT {lock}(1, %s)", [key])
            yield

    def linger(self, probability: float) -> None:
        """Leaves the transaction open for a while, now and then."""
        if self.random.random() < probability:
            time.sleep(self.random.uniform(0, LONGEST_OPEN))

    def date(self) -> datetime:
        """Returns when an order was placed; now and then one that comes due soon, or late."""
        instant = datetime.now(UTC).replace(tzinfo=None)
        if self.random.random() < 0.1:
            return instant + timedelta(seconds=self.random.choice((0.5, 2, 200_000)))
        return instant - timedelta(days=self.random.choice(AGES))

    def status(self) -> str:
        return self.random.choice(("FULFILLED", "SUBMITTED", "FULFILLED", "DRAFT"))

    def add_orders(self) -> None:
        customers = self.customers(self.random.randint(1, 4))
        with self.transaction(customers, shared=True):
            for customer in customers:
                self.connection.execute(ADD_ORDER, [self.status(), self.date(), [customer]])
            if self.random.random() < 0.6:
                self.random.shuffle(customers)
                for customer in customers:
                    for (outcome,) in self.connection.execute(HOOK, [[customer]]):
                        self.done[f"hook: {outcome}"] += 1
                    self.linger(0.1)
            self.linger(0.1)
            if self.random.random() < 0.15:
                raise Rollback

    def add_orders_and_call_python(self) -> None:
        customers = self.customers(self.random.randint(1, 4))
        with self.transaction(customers, shared=True):
            self.connection.execute(ADD_ORDER, [self.status(), self.date(), customers])
        result = after_order_create_batch(
            [OrderCreated(uuid4(), customer) for customer in customers], engine=self.engine
        )
        assert result.error is None, result
        self.done["hook: called by Python"] += 1

    def change_orders(self) -> None:
        """Cancels orders, takes that back, or dates them back."""
        customers = self.customers(1, OPEN)
        with self.transaction(customers):
            column, value = self.random.choice(
                (("status", "CANCELLED"), ("status", "FULFILLED"), ('"orderedAt"', self.date()))
            )
            self.connection.execute(
                f'UPDATE "Order" SET {column} = %s, "updatedAt" = now() WHERE "customerId" = '
                "ANY (%s) AND random() < 0.7",
                [value, customers],
            )
            if self.random.random() < 0.3:
                self.connection.execute(HOOK, [customers])
            if self.random.random() < 0.15:
                raise Rollback

    def delete_orders(self) -> None:
        customers = self.customers(1, OPEN)
        with self.transaction(customers):
            self.connection.execute(
                'DELETE FROM "Order" WHERE "customerId" = ANY (%s) AND random() < 0.5', [customers]
            )

    def move_order(self) -> None:
        """Gives an order to another customer, of whichever tenant."""
        customers = self.customers(2, OPEN)
        with self.transaction(customers):
            self.connection.execute(
                'UPDATE "Order" AS o SET "customerId" = c.id, "tenantId" = c."tenantId" '
                'FROM "Customer" AS c WHERE c.id = %s AND o.id = '
                '(SELECT id FROM "Order" WHERE "customerId" = %s LIMIT 1)',
                customers,
            )

    def set_type(self) -> None:
        """Sets a type by hand; HOLD, and that lifted, among them."""
        customers = self.customers(1)
        type_ = self.random.choice(("HOLD", "HOLD", "ACTIVE", "TARGET", "PROSPECT", None))
        with self.transaction(customers):
            for customer, before in self.connection.execute(
                'SELECT id, "accountType"::text FROM "Customer" WHERE id = ANY (%s) '
                "FOR NO KEY UPDATE",
                [customers],
            ).fetchall():
                self.connection.execute(
                    'UPDATE "Customer" SET "accountType" = %s, "updatedAt" = now() WHERE id = %s',
                    [type_, customer],
                )
                self.connection.execute(RECORD, [customer, before, type_])
            self.linger(0.3)
            if self.random.random() < 0.15:
                raise Rollback

    def add_customer(self) -> None:
        customer = uuid4()
        type_ = self.random.choice((None, None, "PROSPECT", "ACTIVE", "HOLD"))
        with self.transaction([customer]):
            self.connection.execute(
                'INSERT INTO "Customer" (id, "tenantId", name, "accountType", "updatedAt") '
                'SELECT %s, id, %s, %s, now() FROM "Tenant" ORDER BY random() LIMIT 1',
                [customer, "Corner Bottle Shop", type_],
            )
            if type_ is not None:
                self.connection.execute(RECORD, [customer, None, type_])
            if self.random.random() < 0.5:
                self.connection.execute(ADD_ORDER, [self.status(), self.date(), [customer]])
                self.connection.execute(HOOK, [[customer]])

    def delete_customer(self) -> None:
        customers = self.customers(1, OPEN)
        with self.transaction(customers):
            self.connection.execute('DELETE FROM "Customer" WHERE id = ANY (%s)', [customers])

    def change_many(self) -> None:
        """Imports, cancels, or takes back in one statement."""
        customers = self.customers(MANY, OPEN)
        with self.transaction(customers):
            if self.random.random() < 0.5:
                self.connection.execute(ADD_ORDER, [self.status(), self.date(), customers])
            else:
                self.connection.execute(
                    'UPDATE "Order" SET status = %s WHERE "customerId" = ANY (%s)',
                    [self.random.choice(("CANCELLED", "FULFILLED")), customers],
                )


def main() -> None:
    """Writes, and prints what was done."""
    url, seed, seconds = sys.argv[1:]
    writer = Writer(url, int(seed))
    try:
        writer.run(float(seconds))
    except (psycopg.Error, sa.exc.SQLAlchemyError, AssertionError):
        print(f"seed {seed}, after {dict(writer.done)}", file=sys.stderr)
        raise
    print(json.dumps(writer.done))


if __name__ == "__main__":
    main()
