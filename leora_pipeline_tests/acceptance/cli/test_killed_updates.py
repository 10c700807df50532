"""What a kill of ``leora update`` leaves behind, at any of its stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from leora_pipeline import update_account_types
from leora_pipeline.core.reporting.status import STUCK_AFTER_HOURS
from leora_pipeline_tests.acceptance.conftest import Crm, Leora
from leora_pipeline_tests.acceptance.kills import eventually, locked, stands_at
from leora_pipeline_tests.at_rest import wrong_customers
from leora_pipeline_tests.crm_builder import ago, stored
from leora_pipeline_tests.processes import (
    BIN,
    environment,
    start,
)

TENANTS = ("cellar", "market")


@dataclass(frozen=True)
class Scene:
    """A CRM in which a run has something of every kind to do, for two tenants.

    Attributes:
        crm: The CRM.
        url: Its database.
        moves: What a run has to log: each customer, from which type to which.
        pending: The customers that are pending.
        past: The run that was before.
    """

    crm: Crm
    url: str
    moves: Counter[tuple[UUID, str | None, str]]
    pending: set[UUID]
    past: str

    def logged(self) -> Counter[tuple[UUID, str | None, str]]:
        """Returns what was logged since."""
        return Counter(
            tuple(row)
            for row in self.crm.run(
                "SELECT customer_id, from_type, to_type "
                "FROM leora_pipeline.account_type_transition WHERE run_id <> :past",
                past=self.past,
            )
        )

    def killed_runs(self) -> list[tuple[str, str]]:
        """Returns mode and status of the runs of tenants that never ended."""
        rows = self.crm.run(
            "SELECT mode, status FROM leora_pipeline.tenant_run "
            "WHERE run_id <> :past AND finished_at IS NULL",
            past=self.past,
        )
        return [tuple(row) for row in rows]


@pytest.fixture
def scene(runtime_url: str, crm_of_user: Crm) -> Scene:
    """What has happened within the 30 days since the last run."""
    crm = crm_of_user
    moves: Counter[tuple[UUID, str | None, str]] = Counter()
    then: list[Callable[[], Any]] = []
    for slug in TENANTS:
        tenant = crm.tenant(slug)
        orders = crm.customer(tenant, orders=(ago(days=230),))
        ages = crm.customer(tenant, orders=(ago(days=190),))
        loses = crm.customer(tenant, orders=(ago(days=400),))
        lost = crm.order(tenant, loses, ago(days=40))
        is_changed = crm.customer(tenant, orders=(ago(days=40),))
        is_pinned = crm.customer(tenant, "HOLD", orders=(ago(days=40),))
        crm.customer(tenant, orders=(ago(days=40),))  # Who will have been right.
        is_new = uuid4()
        then += [
            lambda tenant=tenant, one=orders: crm.order(tenant, one, ago(days=1)),
            lambda order=lost: crm.cancel(order),
            lambda one=is_changed: crm.set_type(one, "PROSPECT"),
            lambda tenant=tenant, one=is_pinned: crm.order(tenant, one, ago(days=1)),
            lambda tenant=tenant, one=is_new: crm.run(
                'INSERT INTO "Customer" (id, "tenantId", name, "updatedAt") '
                "VALUES (:id, :tenant, 'Shop', :now)",
                id=one,
                tenant=tenant,
                now=stored(ago()),
            ),
        ]
        moves += Counter(
            [
                (orders, "TARGET", "ACTIVE"),
                (ages, "ACTIVE", "TARGET"),
                (loses, "ACTIVE", "PROSPECT"),
                (is_changed, "PROSPECT", "ACTIVE"),
                (is_new, None, "PROSPECT"),
            ]
        )
    update_account_types(as_of=ago(days=30), engine=crm.engine)
    (past,) = {row.run_id for row in crm.run("SELECT run_id FROM leora_pipeline.tenant_run")}
    for happens in then:
        happens()
    return Scene(crm, runtime_url, moves, crm.pending(), past)


CALLS_AT = (
    "CREATE {kind} TRIGGER stand_still {event} ON {table} {when} EXECUTE FUNCTION stand_still()"
)


def at_commit(table: str) -> str:
    """Returns what makes a transaction that has written a table stand still at its commit."""
    return CALLS_AT.format(
        kind="CONSTRAINT",
        event="AFTER INSERT OR UPDATE",
        table=table,
        when="DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
    )


def before_update(table: str) -> str:
    """Returns what makes an update of a table stand still."""
    return CALLS_AT.format(kind="", event="BEFORE UPDATE", table=table, when="FOR EACH STATEMENT")


def at_call(function: str) -> str:
    """Returns what makes a function stand still before it does anything."""
    return (
        "DO $do$ BEGIN EXECUTE regexp_replace("
        f"pg_get_functiondef('leora_pipeline.{function}'::regproc), "
        r"'\nBEGIN\n', E'\nBEGIN\n  PERFORM pg_advisory_xact_lock(7);\n'); END $do$"
    )


@dataclass(frozen=True)
class Done:
    """For how many tenants each step is done, and that as a whole."""

    refreshed: int = 0
    planned: int = 0
    reported: int = 0
    published: int = 0


@dataclass(frozen=True)
class Stage:
    """A place where a run can be made to stand.

    Attributes:
        query: The statement in which it then waits.
        done: What is done after a kill there. What was killed at its commit is committed, by the
            server, as a whole.
        lock: What the test has to hold for that.
        prepare: What has to be in the database for that.
    """

    query: str
    done: Done
    lock: str = "SELECT pg_advisory_xact_lock(7)"
    prepare: str | None = None


def tenant_locks(name: str) -> str:
    return (
        f"INSERT INTO leora_pipeline.work_lock SELECT id, '{name}' FROM \"Tenant\" "
        "ON CONFLICT (tenant_id, name) DO UPDATE SET name = EXCLUDED.name"
    )


STAGES = {
    "refresh, before its locks": Stage(
        "%refresh_customers%", Done(), prepare=at_call("refresh_customers")
    ),
    "refresh, its locks held": Stage(
        "%refresh_customers%", Done(), prepare=at_call("refresh_locked")
    ),
    "refresh, at its commit": Stage(
        "COMMIT", Done(1), prepare=at_commit("leora_pipeline.customer_state")
    ),
    "plan, before the gate": Stage("%work_lock%", Done(2), lock=tenant_locks("gate")),
    "plan, before it is replaced": Stage("%work_lock%", Done(2), lock=tenant_locks("plan")),
    "plan, at its commit": Stage(
        "COMMIT", Done(2, 1), prepare=at_commit("leora_pipeline.account_type_change")
    ),
    "apply, before its locks": Stage(
        "%SKIP LOCKED%", Done(2, 2), lock='LOCK TABLE "Customer" IN EXCLUSIVE MODE'
    ),
    "apply, before it writes": Stage(
        "%write_customers%", Done(2, 2), lock='LOCK TABLE "Customer" IN SHARE MODE'
    ),
    "apply, at its commit": Stage("COMMIT", Done(2, 2, 1), prepare=at_commit('"Customer"')),
    "publish, before it writes": Stage(
        "%account_type_distribution%",
        Done(2, 2, 2),
        lock="LOCK TABLE leora_pipeline.account_type_distribution IN EXCLUSIVE MODE",
    ),
    "publish, at its commit": Stage(
        "COMMIT", Done(2, 2, 2, 1), prepare=at_commit("leora_pipeline.account_type_distribution")
    ),
    "the end": Stage(
        "%succeeded%", Done(2, 2, 2, 2), prepare=before_update("leora_pipeline.tenant_run")
    ),
}


MODES = {"full": (), "incremental": ("--incremental",)}


def kill_update(scene: Scene, stage: Stage, folder: Path, *options: str) -> None:
    """Kills a ``leora update`` that stands at a stage, and lets the server go on."""
    crm = scene.crm
    crm.run(
        "CREATE FUNCTION stand_still() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$"
    )
    if stage.prepare:
        crm.run(stage.prepare)
    log = folder / "update.log"
    process = start(
        *(BIN / "leora", "update", *options),
        env=environment(LEORA_DATABASE_URL=f"{scene.url}&application_name=killed"),
        cwd=folder,
        log=log,
    )

    def stands_there() -> bool:
        assert process.poll() is None, f"it ended:\n{log.read_text()}"
        return stands_at(crm, stage.query)

    try:
        with locked(crm, stage.lock):
            eventually(stands_there, "it stands there")
            process.kill()
            process.wait()
    finally:
        process.kill()  # Where it never stood there; of one that has ended this takes no notice.
        process.wait()
    eventually(
        lambda: not crm.run("SELECT FROM pg_stat_activity WHERE application_name = 'killed'"),
        "the server has noticed",
    )


def whole(found: int, of: int) -> bool:
    """Returns whether something was done; it must not be for some customers alone."""
    assert found in (0, of), f"half-done: {found} of {of}"
    return found == of


def done(scene: Scene) -> Done:
    """Returns what is done in a database, tenant by tenant, and asserts that nothing is by half."""
    crm = scene.crm
    pending = crm.pending()
    customers = crm.run(
        'SELECT id, "tenantId" AS tenant, "accountType"::text AS type FROM "Customer"'
    )
    types = {row.id: row.type for row in customers}
    logged = scene.logged()
    found: Counter[str] = Counter()
    for tenant, day in crm.run(
        "SELECT t.id, max(d.day) = (clock_timestamp() AT TIME ZONE 'UTC')::date "
        'FROM "Tenant" AS t JOIN leora_pipeline.account_type_distribution AS d '
        "ON d.tenant_id = t.id GROUP BY t.id"
    ):
        own = {row.id for row in customers if row.tenant == tenant}
        moves = [move for move in scene.moves if move[0] in own]
        found["refreshed"] += not whole(len(pending & own), len(scene.pending & own))
        planned = crm.run(
            "SELECT customer_id, from_type, to_type FROM leora_pipeline.account_type_change "
            "WHERE tenant_id = :id AND run_id <> :past AND from_type IS DISTINCT FROM to_type",
            id=tenant,
            past=scene.past,
        )
        assert {tuple(row) for row in planned} <= set(moves)
        found["planned"] += whole(len(planned), len(moves))
        is_reported = whole(sum(logged[move] for move in moves), len(moves))
        found["reported"] += is_reported
        for one, before, after in moves:
            assert types[one] == (after if is_reported else before), "the log and the CRM disagree"
        found["published"] += day
    return Done(**found)


def assert_at_rest(scene: Scene) -> None:
    """Asserts that all is as the oracle says, and each change in the log once."""
    assert wrong_customers(scene.crm.engine) == {}
    assert scene.logged() == scene.moves
    assert scene.crm.pending() == set()
    unsynced = scene.crm.run("SELECT FROM leora_pipeline.customer_state WHERE needs_sync")
    assert unsynced == []


PAIRS = [("full", "incremental"), ("incremental", "full")]


LOPSIDED = ("refresh, at its commit", "apply, at its commit")


@pytest.mark.parametrize(
    ("stage", "killed", "successor"),
    [
        *((stage, *pair) for stage in STAGES for pair in PAIRS),
        *((stage, mode, mode) for stage in LOPSIDED for mode in MODES),
    ],
)
def test_an_update_killed_at_any_point_leaves_nothing_half_done_and_the_next_one_does_the_rest(
    scene: Scene, leora: Leora, tmp_path: Path, stage: str, killed: str, successor: str
) -> None:
    assert done(scene) == Done()

    kill_update(scene, STAGES[stage], tmp_path, *MODES[killed])

    assert done(scene) == STAGES[stage].done
    assert scene.killed_runs() == [(killed, "running")] * len(TENANTS)

    outcome = leora("update", *MODES[successor])

    assert (outcome.code, outcome.err) == (0, "")
    assert_at_rest(scene)
    assert scene.killed_runs() == [(killed, "running")] * len(TENANTS)
    if successor == "full":
        assert done(scene).published == len(TENANTS)


def test_a_killed_update_is_named_once_it_is_older_than_the_maximum_and_until_the_next_has_ended(
    scene: Scene, leora: Leora, tmp_path: Path
) -> None:
    kill_update(scene, STAGES["apply, before it writes"], tmp_path)

    def reported() -> list[str]:
        return [line for line in leora("status").lines if "never ended" in line]

    def shift(minutes: int) -> None:
        scene.crm.run(
            "UPDATE leora_pipeline.tenant_run SET started_at = clock_timestamp() "
            "- make_interval(hours => :hours, mins => :minutes) WHERE finished_at IS NULL",
            hours=STUCK_AFTER_HOURS,
            minutes=minutes,
        )

    # The run before it lies further back.
    scene.crm.run(
        "UPDATE leora_pipeline.tenant_run SET started_at = started_at - interval '1 day' "
        "WHERE run_id = :past",
        past=scene.past,
    )
    shift(-5)
    assert reported() == []

    shift(5)
    assert [line.split()[1] for line in reported()] == [f"{slug}:" for slug in TENANTS]
    assert leora("status").code == 1

    assert leora("update").code == 0
    assert reported() == []
    assert leora("status").code == 0
