"""The job through a real webserver and daemon: launched over GraphQL, queued by month, ended with reason."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_double import StripeDouble

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 180
POLL_SECONDS = 0.25
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}

LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"
FAILURES = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
  ... on ExecutionStepFailureEvent { stepKey error { message } failureMetadata { description } } } } } }"""
LOCATION = """{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
  __typename ... on PythonError { message } } } } } }"""
SCHEDULES = """{ schedulesOrError(repositorySelector: {
  repositoryName: "__repository__", repositoryLocationName: "spell_billing"}) {
  ... on Schedules { results { name scheduleState { status } } } } }"""


class Instance:
    """Dagster's webserver and daemon on a home of their own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(  # noqa: S310 - our own address
            self._url, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own address
            content = json.load(answer)
        assert "errors" not in content, content["errors"]
        return content["data"]

    def ready(self) -> bool:
        """Tell whether the webserver answers and has loaded the workspace."""
        try:
            entries = self.ask(LOCATION)["workspaceOrError"]["locationEntries"]
        except OSError:
            return False
        return any(entry["locationOrLoadError"] for entry in entries)

    def launch(self, month: str) -> str:
        tags = [{"key": "dagster/partition", "value": f"{month}-01"}]
        return self._launch({"jobName": "monthly_billing"}, {}, {"tags": tags})

    def launch_asset(self, name: str, **config: str) -> str:
        """Launch one asset with a configuration, as its page does."""
        selector = {"jobName": "__ASSET_JOB", "assetSelection": [{"path": [name]}]}
        return self._launch(selector, {"ops": {name: {"config": config}}}, {})

    def _launch(self, job: dict[str, Any], config: dict[str, Any], metadata: dict[str, Any]) -> str:
        selector = {
            "repositoryLocationName": "spell_billing",
            "repositoryName": "__repository__",
            **job,
        }
        params = {"selector": selector, "runConfigData": config, "executionMetadata": metadata}
        launched = self.ask(LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def backfill(self, *months: str) -> str:
        params = {
            "partitionNames": [f"{month}-01" for month in months],
            "selector": {
                "partitionSetName": "monthly_billing_partition_set",
                "repositorySelector": {
                    "repositoryLocationName": "spell_billing",
                    "repositoryName": "__repository__",
                },
            },
        }
        launched = self.ask(BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def runs(self) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = self.ask(RUNS)["runsOrError"]["results"]
        return results

    def status(self, run_id: str) -> str:
        return next(str(run["status"]) for run in self.runs() if run["runId"] == run_id)

    def why(self, run_id: str) -> str:
        events = self.ask(FAILURES, id=run_id)["logsForRun"]["events"]
        return "\n".join(event["error"]["message"] for event in events if event and event.get("error"))


def until(reached: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not reached():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        time.sleep(POLL_SECONDS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def double() -> Iterator[StripeDouble]:
    with StripeDouble().running() as running:
        yield running


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('platform') / 'platform.db'}"


@pytest.fixture(scope="module")
def instance(
    double: StripeDouble, database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Instance]:
    """Start webserver and daemon as `dagster dev` does, on the local instance configuration."""
    home = tmp_path_factory.mktemp("live")
    dagster_home = home / "dagster"
    dagster_home.mkdir()
    shutil.copy(
        ROOT / "spell_billing" / "orchestration" / "local_dagster.yaml", dagster_home / "dagster.yaml"
    )
    # Webserver and daemon started at once on an empty home would race for who makes Dagster's own tables.
    with dg.DagsterInstance.from_config(str(dagster_home)):
        pass
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "DAGSTER_HOME": str(dagster_home),
        "SPELL_BILLING_HOME": str(home),
        "DATABASE_URL": database,
        "STRIPE_API_KEY": "sk_test_live_instance",
        "STRIPE_API_BASE": double.base_url,
    }
    binaries, workspace, port = Path(sys.executable).parent, str(ROOT / "workspace.yaml"), free_port()
    commands = [
        [str(binaries / "dagster-webserver"), "-w", workspace, "-h", "127.0.0.1", "-p", str(port)],
        [str(binaries / "dagster-daemon"), "run", "-w", workspace],
    ]
    processes = []
    with (home / "dagster.log").open("wb") as log:
        try:
            for command in commands:
                processes.append(  # noqa: PERF401 - those already started must end whatever the next does
                    subprocess.Popen(
                        command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
                    )
                )
            started = Instance(f"http://127.0.0.1:{port}/graphql")
            until(started.ready, f"the webserver has loaded the workspace; see {log.name}")
            yield started
        finally:
            for process in processes:
                # Its code server and runs are in the group of its own that it began with.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def usage(make_source_tables: Callable[[str], Any], database: str, double: StripeDouble) -> None:
    """Give one user usage in four months."""
    source = make_source_tables(database)
    source.accounts([{"user_id": "user-0001", "stripe_customer_id": "cus_1"}])
    double.add_customer("cus_1")
    months = ("2025-01", "2025-02", "2025-03", "2025-04")
    source.calls(
        [
            ("user-0001", 100 * number, Month.parse(month).start.replace(day=9))
            for number, month in enumerate(months, start=1)
        ]
    )


def test_one_command_loads_the_workspace_with_the_schedule_running(instance: Instance) -> None:
    (location,) = instance.ask(LOCATION)["workspaceOrError"]["locationEntries"]
    found = instance.ask(SCHEDULES)["schedulesOrError"]["results"]
    (schedule,) = [each for each in found if each["name"] == "monthly_billing_schedule"]

    assert location["name"] == "spell_billing"
    assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation", location
    assert schedule == {"name": "monthly_billing_schedule", "scheduleState": {"status": "RUNNING"}}


@pytest.mark.usefixtures("usage")
def test_months_launched_over_graphql_end_as_they_must(
    instance: Instance, double: StripeDouble, database: str
) -> None:
    """One scenario, because every run costs a process of Dagster's: see the assertions in turn."""
    backfill = instance.backfill("2025-03", "2025-04")
    ledger = Ledger(parse_database_url(database, setting="DATABASE_URL"))
    with ledger, ledger.session(Month(2025, 1), Actor("test"), wait_seconds=0):
        # The month's lock keeps the first run under way, for as long as it takes to see the second wait.
        held = instance.launch("2025-01")
        until(lambda: instance.status(held) == "STARTED", "the first run of the month starts")
        second = instance.launch("2025-01")
        other = instance.launch("2025-02")
        still_open, before = instance.launch("2099-01"), instance.launch("2023-12")
        others = (other, still_open, before)
        until(lambda: all(instance.status(run_id) in ENDED for run_id in others), "the other months end")
        assert instance.status(held) == "STARTED"
        assert instance.status(second) == "QUEUED", "one run a month at a time, others pass it"
        assert instance.status(other) == "SUCCESS", instance.why(other)
    until(lambda: instance.status(second) in ENDED, "both runs of the month end")

    assert instance.status(held) == "SUCCESS", instance.why(held)
    assert instance.status(second) == "SUCCESS", instance.why(second)
    assert instance.status(still_open) == "FAILURE"
    assert "2099-01 is not closed: it ends on 2099-01-31 at 24:00 UTC." in instance.why(still_open)
    assert instance.status(before) == "FAILURE"
    assert "2023-12 precedes the first billed month, 2024-01." in instance.why(before)

    def filled() -> list[str]:
        return [
            run["status"]
            for run in instance.runs()
            if {"key": "dagster/backfill", "value": backfill} in run["tags"] and run["status"] in ENDED
        ]

    until(lambda: len(filled()) == 2, "the backfill's two runs end")
    assert filled() == ["SUCCESS", "SUCCESS"]
    assert sorted(invoice.total_cents for invoice in double.invoices()) == [100, 200, 300, 400]
    assert {invoice.status for invoice in double.invoices()} == {"paid"}
    assert double.violations == []


def test_a_simulation_is_launched_from_its_own_page(instance: Instance, database: str) -> None:
    Path(database.removeprefix("sqlite:///")).touch()
    with Ledger(parse_database_url(database, setting="DATABASE_URL")):
        pass

    run_id = instance.launch_asset(
        "price_simulation", from_month="2024-01", to_month="2024-01", pricing="everyone: pro"
    )
    until(lambda: instance.status(run_id) in ENDED, "the simulation ends")

    assert "no frozen usage of 2024-01" in instance.why(run_id)
