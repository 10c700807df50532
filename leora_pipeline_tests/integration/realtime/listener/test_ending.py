"""How a listener reports that it runs, and how it ends."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.realtime import batch as batch_module
from leora_pipeline.core.realtime import listener as listen
from leora_pipeline.core.realtime.listener import Listener
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.listening import (
    DEADLINE,
    eventually,
    listener_names,
    listening,
    pass_time,
)
from leora_pipeline_tests.scenes import (
    add_customers,
    counts,
)


def test_it_says_that_it_runs_for_as_long_as_it_does(engine: sa.Engine, build: CrmBuilder) -> None:
    with listening(engine), listening(engine, is_notified=True):
        eventually(
            lambda: (
                sorted(
                    row.wants_notify
                    for row in build.run("SELECT wants_notify FROM leora_pipeline.listener")
                )
                == [False, True]
            )
        )
    assert build.run("SELECT FROM leora_pipeline.listener") == []


def test_the_record_of_a_listener_that_was_killed_long_ago_is_deleted(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    for name, hours in (("killed", 2), ("alive", 0)):
        build.run(
            "INSERT INTO leora_pipeline.listener VALUES (:name, clock_timestamp(), "
            "clock_timestamp() - make_interval(hours => :hours), false)",
            name=name,
            hours=hours,
        )
    with listening(engine):
        eventually(lambda: len(listener_names(build) - {"killed", "alive"}) == 1)
        eventually(lambda: "killed" not in listener_names(build))
        assert "alive" in listener_names(build)


def test_it_stops_after_the_batch_at_hand_and_leaves_the_rest(
    engine: sa.Engine,
    build: CrmBuilder,
    small_batches: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tenants = sorted(build.tenant(slug) for slug in ("cellar", "market"))
    for tenant in tenants:
        add_customers(build, tenant, 2 * small_batches, ordered=ago(days=2), account_type="TARGET")

    def stopped(connection: sa.Connection, *rest: Any, **options: Any) -> Any:
        listener.stop()
        return refresh_customers(connection, *rest, **options)

    refresh_customers = batch_module.refresh_customers
    monkeypatch.setattr(batch_module, "refresh_customers", stopped)
    listener = Listener(engine)
    listener.run()

    assert (listener.customers, listener.moved) == (small_batches, small_batches)
    assert counts(build, tenants[0]) == {"ACTIVE": small_batches, "TARGET": small_batches}
    assert counts(build, tenants[1]) == {"TARGET": 2 * small_batches}
    assert len(build.pending()) == 3 * small_batches


def test_it_stops_amid_the_due_too(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    small_batches: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_customers(build, tenant, 5 * small_batches, ordered=ago(days=175))
    update_account_types(engine=engine)
    pass_time(build, 10)

    def stopped(connection: sa.Connection, *rest: Any, **options: Any) -> Any:
        listener.stop()
        return refresh_customers(connection, *rest, **options)

    refresh_customers = batch_module.refresh_customers
    monkeypatch.setattr(batch_module, "refresh_customers", stopped)
    listener = Listener(engine)
    listener.run()

    assert counts(build, tenant) == {"TARGET": small_batches, "ACTIVE": 4 * small_batches}


def test_a_signal_at_whatever_moment_stops_it(engine: sa.Engine, build: CrmBuilder) -> None:
    """A handler runs between two lines of whatever the thread was at, waiting among it."""
    files = {listen.__file__, threading.__file__}
    places: set[tuple[str, int]] = set()

    def run_until(reached: Callable[[str, int], bool]) -> None:
        """Listens until a line is reached, and calls `stop` there, as a signal's handler does."""
        listener = Listener(engine, poll_seconds=0.001)

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            if frame.f_code.co_filename not in files or "run_until" in frame.f_code.co_name:
                return None
            if event == "line" and reached(frame.f_code.co_filename, frame.f_lineno):
                sys.settrace(None)
                listener.stop()
            return trace

        signal.signal(signal.SIGUSR1, hung)
        watchdog = threading.Timer(
            DEADLINE, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1)
        )
        watchdog.start()
        sys.settrace(trace)
        try:
            listener.run()
        finally:
            sys.settrace(None)
            watchdog.cancel()
            watchdog.join()

    def hung(signum: int, frame: FrameType | None) -> None:
        raise AssertionError(f"hangs when it is stopped at {at}")

    traced_before, handled_before = sys.gettrace(), signal.getsignal(signal.SIGUSR1)
    looks = 0
    at: tuple[str, int] | None = None

    def third_look(file: str, line: int) -> bool:
        nonlocal looks
        looks += (file, line) not in places and file == listen.__file__
        places.add((file, line))
        seen.append((file, line))
        return len(seen) > 1500

    seen: list[tuple[str, int]] = []
    try:
        run_until(third_look)
        for place in sorted(places):
            at = place
            run_until(lambda file, line, place=place: (file, line) == place)
    finally:
        sys.settrace(traced_before)
        signal.signal(signal.SIGUSR1, handled_before)
    assert looks > 20
    assert build.run("SELECT FROM leora_pipeline.listener") == []
