"""What a run is given: the CRM's database, and what the person who launches it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import sqlalchemy as sa
from pydantic import Field

from leora_pipeline.core.crm.requirements import require_fit_database
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.errors import LeoraError, WrongUsageError
from leora_pipeline.core.instants import parse_instant
from leora_pipeline.core.run.run import Mode, Run, resolve_run
from leora_pipeline.core.settings import Settings
from leora_pipeline.core.text import visible


class CrmDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The CRM's database, as ``LEORA_DATABASE_URL`` names it.

    It has no field: each one would be an input of every run, and whoever reaches the web server
    could have a run connect to a database of their choice.
    """

    @contextmanager
    def connect(self) -> Iterator[sa.Engine]:
        """Opens the database for a step, refusing one that is not fit.

        Raises:
            dagster.Failure: For every error that a user is meant to see, on one line.
        """
        with as_failure():
            url = Settings.from_environment().database_url
            if url is None:
                raise WrongUsageError(
                    "LEORA_DATABASE_URL is not set; set it to the CRM's database, "
                    "or start Dagster with `leora dev` for the embedded one"
                )
            engine = create_engine(url)
            try:
                require_fit_database(engine)
                yield engine
            finally:
                engine.dispose()


class NothingHandedOn(dg.ConfigurableIOManager):
    """Refuses what a step would hand on: steps leave everything in the database.

    It stands in the place of Dagster's own, which would have run configuration name the folder that
    it writes to.
    """

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Refuses; an asset that returns nothing is to say so (``-> None``)."""
        raise NotImplementedError(f"{context.step_key} is to leave its result in the database")

    def load_input(self, context: dg.InputContext) -> object:
        """Refuses; a step is to read what it needs from the database."""
        raise NotImplementedError(f"{context.name} is to be read from the database")


class RunScope(dg.ConfigurableResource):  # type: ignore[type-arg]
    """What a run covers. All of it is empty by default: all tenants, now, no exception made."""

    tenants: list[str] = Field(default=[], description="Slugs of the tenants; empty: all of them.")
    as_of: str = Field(
        default="",
        description="Judge by this instant of the past (ISO 8601; without a time zone: UTC) "
        "instead of the database's clock, or, for a preview, of the future; empty: now.",
    )
    allow_mass_change: list[str] = Field(
        default=[],
        description="Slugs of held tenants whose orders are meant to be gone: "
        "their hold is released and their demotions are written. Takes a reason.",
    )
    reason: str = Field(
        default="",
        description="Why these orders are meant to be gone; recorded on the hold, with the time "
        "and who launched the run.",
    )

    def resolve_run(
        self, engine: sa.Engine, launched: dg.DagsterRun, *, mode: Mode, allow_future: bool = False
    ) -> Run:
        """Resolves the scope into a run of the core's."""
        # Who launched it, where a tag says so: Dagster+ sets one, the open-source web server none.
        user = launched.tags.get("user")
        return resolve_run(
            engine,
            tenant_slugs=self.tenants,
            as_of=parse_instant(self.as_of) if self.as_of else None,
            allow_mass_change=self.allow_mass_change,
            reason=self.reason,
            allowed_by=user or f"Dagster run {launched.run_id}",
            run_id=launched.run_id,
            mode=mode,
            allow_future=allow_future,
            write_dates=Settings.from_environment().write_last_order_date,
        )


@contextmanager
def as_failure() -> Iterator[None]:
    """Turns the errors that a user is meant to see into a failure with their one line."""
    try:
        yield
    except LeoraError as error:
        raise dg.Failure(description=visible(str(error)), allow_retries=False) from error
