"""Dagster's side of the admin endpoint: which runs a month has, and starting one as Dagster's pages do."""

import asyncio
import threading
from datetime import UTC, datetime

import dagster as dg
from pydantic import BaseModel, Field

from spell_billing.core.month import Month
from spell_billing.orchestration.assets.common import ACTOR_TAG, actor_of
from spell_billing.orchestration.billing_runs import (
    PARTITION_TAG,
    UNDER_WAY,
    is_billing,
    last_runs,
    months_under_way,
)
from spell_billing.orchestration.jobs import monthly_billing
from spell_billing.orchestration.unstable import (
    WorkspaceProcessContext,
    WorkspaceRequestContext,
    create_schema,
)
from spell_billing.web.api import Moment
from spell_billing.web.errors import ApiError

_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename
  ... on LaunchRunSuccess { run { runId status } }
  ... on Error { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""


class Run(BaseModel):
    """A run of a month."""

    id: str = Field(description="Dagster's.")
    status: str = Field(description="Dagster's, as QUEUED, STARTED, SUCCESS or FAILURE.")
    actor: str = Field(description="Who launched it.")
    created_at: Moment = Field(description="When it was launched.")
    ended_at: Moment | None = Field(description="Null while it is under way.")
    url: str = Field(description="Its page in Dagster.")


class DagsterRuns:
    """Read and launch runs of the billing job. Every method blocks: call it in a thread.

    The lock `launching` is held from looking whether a run is under way until one is started.
    """

    def __init__(self, workspace: WorkspaceProcessContext) -> None:
        self.launching = threading.Lock()
        self._workspace = workspace
        self._schema = create_schema()

    def under_way(self, month: Month, base_url: str) -> Run | None:
        """Return the run that bills a month or waits to, the first of them where there are several."""
        wanted = dg.RunsFilter(tags={PARTITION_TAG: month.partition_key}, statuses=UNDER_WAY)
        records = self._workspace.instance.get_run_records(wanted, ascending=True)
        return next((_run(record, base_url) for record in records if is_billing(record.dagster_run)), None)

    def months_under_way(self) -> frozenset[Month]:
        """Return the months that a run bills, or waits to bill."""
        return months_under_way(self._workspace.instance)

    def latest(self, month: Month, limit: int, base_url: str) -> list[Run]:
        """Return the month's latest runs, the newest first."""
        return [_run(record, base_url) for record in last_runs(self._workspace.instance, month, limit)]

    def launch(self, month: Month, actor: str, *, verify: bool) -> str:
        """Put a run of a month into Dagster's queue, as a person launches one, and return its id.

        Raises:
            ApiError: with what Dagster says when it does not take the run.
        """
        tags = {PARTITION_TAG: month.partition_key, ACTOR_TAG: actor}
        with self._workspace.create_request_context() as request:
            params = {
                "selector": _selector(request),
                "runConfigData": {"ops": {"stripe_invoices": {"config": {"verify": verify}}}},
                "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
            }
            result = asyncio.run(
                self._schema.execute_async(_LAUNCH, context_value=request, variable_values={"params": params})
            )
        launched = (result.data or {}).get("launchRun") or {}
        if launched.get("__typename") == "LaunchRunSuccess":
            return str(launched["run"]["runId"])
        reasons = [error.message for error in result.errors or []]
        reasons += [error["message"] for error in launched.get("errors", [])]
        reason = launched.get("message") or "; ".join(reasons) or launched.get("__typename", "no answer")
        raise ApiError(
            503,
            "not_launched",
            f"Dagster did not take the run of {month}: {str(reason).strip().partition(chr(10))[0]}",
            "See the code location on Dagster's page Deployment, and the server's log.",
        )


def _selector(request: WorkspaceRequestContext) -> dict[str, str]:
    """Name our job as Dagster knows it: the location may have any name in a workspace file."""
    for location in request.code_locations:
        for repository in location.get_repositories().values():
            if repository.has_job(monthly_billing.name):
                return {
                    "repositoryLocationName": location.name,
                    "repositoryName": repository.name,
                    "jobName": monthly_billing.name,
                }
    raise ApiError(
        503,
        "not_launched",
        f"No code location of the workspace has the job {monthly_billing.name}.",
        "See on Dagster's page Deployment why spell_billing did not load.",
    )


def _run(record: dg.RunRecord, base_url: str) -> Run:
    run = record.dagster_run
    return Run(
        id=run.run_id,
        status=run.status.value,
        actor=actor_of(run).name,
        created_at=record.create_timestamp,
        ended_at=None if record.end_time is None else datetime.fromtimestamp(record.end_time, UTC),
        url=f"{base_url}/runs/{run.run_id}",
    )
