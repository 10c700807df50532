"""Dagster's web server, asked the way a user's script asks it."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from leora_pipeline_tests.acceptance.conftest import Crm
from leora_pipeline_tests.processes import (
    wait_until,
)

LAUNCH_RUN = """
mutation LaunchRun($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PipelineNotFoundError { message }
    ... on PythonError { message }
  }
}
"""


REPOSITORY = {"repositoryLocationName": "leora_pipeline", "repositoryName": "__repository__"}


def launch_body(job: str, run_config: dict[str, Any]) -> dict[str, Any]:
    """Returns the JSON that launches a run: what a curl user posts to ``/graphql``.

    curl -s http://127.0.0.1:3000/graphql -H 'Content-Type: application/json' -d '{
      "query": "mutation LaunchRun($params: ExecutionParams!) { launchRun(executionParams: $params)
        { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
      "variables": {"params": {
        "selector": {"repositoryLocationName": "leora_pipeline",
                     "repositoryName": "__repository__", "jobName": "refresh_account_types"},
        "runConfigData": {"resources": {"scope": {"config": {"tenants": ["well-crafted"]}}}}}}}'

    (On one line; `runConfigData` is ``{}`` for all tenants.)
    """
    return {
        "query": LAUNCH_RUN,
        "variables": {
            "params": {"selector": {**REPOSITORY, "jobName": job}, "runConfigData": run_config}
        },
    }


class Server:
    """A running web server, asked through GraphQL."""

    def __init__(self, url: str, crm: Crm) -> None:
        self.url = url
        self.crm = crm

    def post(self, body: dict[str, Any]) -> Any:
        """Posts a body to GraphQL and returns its data."""
        request = urllib.request.Request(
            f"{self.url}/graphql",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def launch(self, job: str = "refresh_account_types", **scope: object) -> str:
        """Launches a run the way a user does, and returns its id."""
        config = {"resources": {"scope": {"config": scope}}} if scope else {}
        launched = self.post(launch_body(job, config))["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id: str = launched["run"]["runId"]
        return run_id

    def status(self, run_id: str) -> str:
        """Returns a run's status."""
        query = "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        found: str = self.post({"query": query, "variables": {"id": run_id}})["runOrError"][
            "status"
        ]
        return found

    def finished(self, run_id: str) -> str:
        """Waits for a run's end and returns its status."""
        return wait_until(
            lambda: (
                status
                if (status := self.status(run_id)) in ("SUCCESS", "FAILURE", "CANCELED")
                else ""
            ),
            seconds=90,
            what=f"run {run_id} ends",
            every=0.3,
        )
