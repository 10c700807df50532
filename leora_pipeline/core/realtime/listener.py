"""The listener: polls every few milliseconds for pending customers, and takes them batch by batch.

Several may run; they share the work by claiming what no other has claimed. Whatever ends one,
it leaves nothing half-done, as a batch is one transaction. What does not belong here: what is done
with the customers, which is `batch`'s.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from uuid import UUID, uuid4

import psycopg
import sqlalchemy as sa

from leora_pipeline.core.backoff import Backoff
from leora_pipeline.core.crm.requirements import require_fit_database
from leora_pipeline.core.customers.actionable import find_actionable_tenants
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import LeoraError, one_line
from leora_pipeline.core.realtime.batch import (
    Batch,
    take_actionable,
    take_pending,
)

SQL = statements(__name__)

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.025
"""How long to wait between two looks at the queue."""

NOTIFIED_POLL_SECONDS = 1.0
"""How long a listener that is notified waits before it looks all the same: a notification that
no session received is gone."""

ACTIONABLE_SECONDS = 1.0
"""How long to wait between two queries for actionable customers."""

ACTIONABLE_SHARE = 20
"""That look takes at most one part in so many of the time: it pauses so many times as long."""

REPORT_SECONDS = 5.0
"""How often a listener says that it runs."""

PAUSES = Backoff(first=0.1, longest=30.0)
"""How long a tenant, or the database, is not tried again after failures."""


class _Pause:
    """A time in which what failed is not tried again, longer after each failure in a row."""

    def __init__(self) -> None:
        self._failures = 0
        self.until = 0.0

    def lengthen(self) -> float:
        """Begins a longer pause and returns how long, in seconds."""
        self._failures += 1
        seconds = PAUSES.after(self._failures)
        self.until = time.monotonic() + seconds
        return seconds


@dataclass
class Listener:
    """A real-time worker.

    Attributes:
        engine: The CRM's database; a direct connection where it is to be notified.
        poll_seconds: How long to wait between two looks at the queue.
        is_notified: Whether to be woken by PostgreSQL instead. It makes commits of changes of the
            CRM wait for each other.
        write_dates: Whether ``"lastOrderDate"`` is written too.
        customers: How many customers it has looked at.
        moved: How many types it has changed.
    """

    engine: sa.Engine
    poll_seconds: float = POLL_SECONDS
    is_notified: bool = False
    write_dates: bool = True
    customers: int = field(default=0, init=False)
    moved: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._writer = Writer(
            run_id=f"listener {self._id}", fallback_cause="listener", write_dates=self.write_dates
        )
        self._is_stopped = False
        # Unlike an Event, a SimpleQueue may be used by the handler of a signal, at whatever moment.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._pauses: dict[UUID, _Pause] = {}
        # Up to where each tenant's pending rows are skipped for now: another session holds those
        # customers, or more than a batch is being taken.
        self._skipped_up_to: dict[UUID, int] = {}
        self._actionable: dict[UUID, UUID] = {}
        self._report_at = self._actionable_at = 0.0

    def stop(self) -> None:
        """Ends `run` after the batch at hand; may be called by a signal's handler too."""
        self._is_stopped = True
        self._wake.put(None)

    def _sleep(self, seconds: float) -> None:
        """Waits, unless it is stopped."""
        if not self._is_stopped:
            with suppress(Empty):
                self._wake.get(timeout=seconds)

    def run(self) -> None:
        """Listens until it is stopped, whatever becomes of the database meanwhile."""
        down = _Pause()
        while not self._is_stopped:
            try:
                with self._connected() as wire:
                    require_fit_database(self.engine)
                    while not self._is_stopped:
                        self._look(wire)
                        if down.until:
                            logger.warning("The database is back")
                            down = _Pause()
            except (psycopg.Error, sa.exc.DBAPIError, LeoraError) as error:
                if self._is_stopped:
                    return
                seconds = down.lengthen()
                logger.error("%s (the next try is in %.1f s)", one_line(error), seconds)
                self._sleep(seconds)

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection]:
        """Opens the listener's own connection, on which it polls and is notified."""
        pooled = self.engine.raw_connection()
        wire = pooled.driver_connection
        assert isinstance(wire, psycopg.Connection)
        pooled.detach()
        try:
            wire.autocommit = True
            if self.is_notified:
                wire.execute("LISTEN leora_pipeline_pending")
            self._report_at = 0.0
            yield wire
        finally:
            with suppress(psycopg.Error):
                wire.execute(SQL.for_driver("leave"), {"listener_id": self._id})
            wire.close()

    def _look(self, wire: psycopg.Connection) -> None:
        """Looks once at all there is to do, does it, and waits where that was nothing."""
        now = time.monotonic()
        if now >= self._report_at:
            wire.execute(
                SQL.for_driver("report"),
                {"listener_id": self._id, "wants_notify": self.is_notified},
            )
            wire.execute(SQL.for_driver("delete_dead_listeners"))
            self._report_at = now + REPORT_SECONDS
        has_worked = self._take_pending(wire)
        if self._take_actionable() or has_worked:
            return
        if self.is_notified:
            for _ in wire.notifies(timeout=NOTIFIED_POLL_SECONDS, stop_after=1):
                pass
        else:
            self._sleep(self.poll_seconds)

    def _take_pending(self, wire: psycopg.Connection) -> bool:
        """Takes a batch of every tenant, so that none waits until another's queue is empty.

        Returns:
            Whether there was any to take: more may have come meanwhile.
        """
        has_worked = False
        tenant_id = UUID(int=0)
        while not self._is_stopped:
            row = wire.execute(SQL.for_driver("next_tenant"), {"after": tenant_id}).fetchone()
            if row is None:
                break
            tenant_id = row[0]
            with self._watched(tenant_id) as is_paused:
                if is_paused:
                    continue
                batch = take_pending(
                    self.engine,
                    self._writer,
                    tenant_id,
                    after=self._skipped_up_to.get(tenant_id, 0),
                )
                if batch.last is not None and (batch.is_full or batch.skipped):
                    self._skipped_up_to[tenant_id] = batch.last
                has_worked = has_worked or batch.customers > 0
                self._count(batch)
        return has_worked

    def _take_actionable(self) -> bool:
        """Takes a batch of every tenant that has actionable customers.

        Returns:
            Whether a tenant has more than that.
        """
        begun = time.monotonic()
        if not self._actionable and begun >= self._actionable_at:
            self._skipped_up_to.clear()  # The skipped are next.
            self._actionable = dict.fromkeys(
                find_actionable_tenants(self.engine, self._writer.as_of, or_pending=False),
                UUID(int=0),
            )
            took = time.monotonic() - begun
            self._actionable_at = time.monotonic() + max(
                ACTIONABLE_SECONDS, ACTIONABLE_SHARE * took
            )
        for tenant_id in list(self._actionable):
            if self._is_stopped:
                break
            after = self._actionable.pop(tenant_id)
            with self._watched(tenant_id) as is_paused:
                if not is_paused:
                    batch = take_actionable(self.engine, self._writer, tenant_id, after=after)
                    if batch.last is not None:
                        self._actionable[tenant_id] = batch.last
                    self._count(batch)
        return bool(self._actionable)

    @contextmanager
    def _watched(self, tenant_id: UUID) -> Iterator[bool]:
        """Keeps a tenant's failure from the others; yields whether the tenant has to be left alone.

        A broken connection concerns all tenants, and is raised to what opens the next.
        """
        pause = self._pauses.get(tenant_id)
        is_paused = pause is not None and time.monotonic() < pause.until
        try:
            yield is_paused
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise
            seconds = self._pauses.setdefault(tenant_id, _Pause()).lengthen()
            logger.error(
                "Tenant %s: %s (the next try is in %.1f s)", tenant_id, one_line(error), seconds
            )
        else:
            if not is_paused:
                self._pauses.pop(tenant_id, None)

    def _count(self, batch: Batch) -> None:
        self.customers += batch.customers
        self.moved += batch.moved
