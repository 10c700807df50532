"""Dagster's web server behind the door, as a process: ``python -m … PORT WORKSPACE_FILE``.

Dagster makes its application for whoever asks (`create_app_from_workspace_process_context`), and
Starlette adds what stands before it; neither `dagster-webserver` nor `dagster dev` has an option
for that. A proxy before them would be no door: their own port would stay open to the same pages.

The application takes a workspace, whose class Dagster exports nowhere but in its own core. Where
these names move, this process ends with an error, and nothing is served without the door.
"""

from __future__ import annotations

import sys

import uvicorn
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.cli import (
    DEFAULT_DB_STATEMENT_TIMEOUT,
    DEFAULT_POOL_MAX_OVERFLOW,
    DEFAULT_POOL_RECYCLE,
)
from dagster_webserver.version import __version__

from leora_pipeline.orchestration.door import OwnPagesOnly


def main(port: int, workspace_file: str) -> None:
    """Serves the Dagster UI on this machine until a signal ends it."""
    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(
            DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_RECYCLE, DEFAULT_POOL_MAX_OVERFLOW
        )
        with WorkspaceProcessContext(
            instance,
            workspace_load_target=WorkspaceFileTarget(paths=[workspace_file]),
            version=__version__,
        ) as workspace:
            app = create_app_from_workspace_process_context(workspace, live_data_poll_rate=2000)
            app.add_middleware(OwnPagesOnly, port=port)
            uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
