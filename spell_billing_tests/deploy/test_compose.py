"""The services of deploy/compose.yaml, each by its own command and environment, bill a month together."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from spell_billing.core.month import Month
from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.deploy.composed import ROOT, Image, composition
from spell_billing_tests.environments.servers import free_port

_DEADLINE_SECONDS = 240
_SECRET = "a-secret-of-the-tests-0001"
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


def until(reached: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not reached():
        assert time.monotonic() < deadline, f"not within {_DEADLINE_SECONDS} s: {what}"
        time.sleep(0.25)


class Machine:
    """Folders in the place of a container's, ports of this machine in the place of its own."""

    def __init__(self, root: Path, variables: dict[str, str]) -> None:
        self.root, self.image, self.services = root, Image(), composition(variables)["services"]
        self.ports = {name: str(free_port()) for name in ("3000", "4000")}
        for folder in (self.image.folder, self.image.environment["SPELL_BILLING_HOME"], "/tmp"):  # noqa: S108
            self.path(folder).mkdir(parents=True)
        self.path("/opt/dagster/storage").mkdir()
        for source, place in self.image.copies:
            shutil.copy(ROOT / source, self.path(place))

    def path(self, place: str) -> Path:
        return self.root / place.lstrip("/")

    def environment(self, service: str) -> dict[str, str]:
        settings = {**self.image.environment, **self.services[service]["environment"]}
        for name in ("DAGSTER_HOME", "SPELL_BILLING_HOME"):
            settings[name] = str(self.path(settings[name]))
        settings["PATH"] = f"{Path(sys.executable).parent}:{settings['PATH']}"
        settings["CODE_SERVER_HOST"] = {"code": "127.0.0.1"}[settings["CODE_SERVER_HOST"]]
        settings["CODE_SERVER_PORT"] = self.ports[settings["CODE_SERVER_PORT"]]
        return {**settings, "TMPDIR": str(self.path("/tmp")), "HOME": str(self.path("/tmp"))}  # noqa: S108

    def words(self, command: list[str]) -> list[str]:
        ours = [self.ports.get(word, word) for word in command]
        return [word.replace(":3000/", f":{self.ports['3000']}/") for word in ours]

    def start(self, service: str, log: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self.words(self.services[service]["command"]),
            cwd=self.path(self.image.folder),
            env=self.environment(service),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def is_healthy(self, service: str) -> bool:
        kind, *command = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        done = subprocess.run(
            self.words(command),
            cwd=self.path(self.image.folder),
            env=self.environment(service),
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def written(self) -> set[str]:
        """Give the files of the image's folder that its containers may not change."""
        found = self.path(self.image.folder).rglob("*")
        names = {str(each.relative_to(self.path(self.image.folder))) for each in found}
        # The daemon looks there for telemetry that waits to be sent, and does without where it cannot write.
        return {name for name in names - {"logs", ".logs_queue"} if not name.startswith("storage")}


@pytest.fixture
def double() -> Iterator[StripeDouble]:
    with StripeDouble().running() as running:
        yield running


@pytest.fixture
def machine(postgres_server: str, double: StripeDouble, tmp_path: Path) -> Iterator[Machine]:
    """Start every service when those it waits for are healthy, as compose does."""
    databases = {name: f"composed_{name}_{os.getpid()}" for name in ("billing", "dagster")}
    urls = {}
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        for name, database in databases.items():
            connection.execute(f"CREATE DATABASE {database}")
            place = sa.make_url(postgres_server).set(database=database)
            urls[name] = place.render_as_string(hide_password=False)
    made = Machine(
        tmp_path,
        {
            "PYTHON_IMAGE": "python",
            "POSTGRES_IMAGE": "postgres",
            "POSTGRES_PASSWORD": "unused",
            "DATABASE_URL": urls["billing"],
            "USAGE_DATABASE_URL": urls["billing"],
            "DAGSTER_POSTGRES_URL": urls["dagster"],
            "ADMIN_SECRET": _SECRET,
            "STRIPE_API_KEY": "sk_test_composed",
            "STRIPE_API_BASE": double.base_url,
        },
    )
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with (tmp_path / "log").open("wb") as log:
        try:
            assert made.start("tables", log).wait(_DEADLINE_SECONDS) == 0, Path(log.name).read_text()
            for name, awaited in (("code", True), ("daemon", False), ("serve", True)):
                processes[name] = made.start(name, log)
                # The daemon is alive only when all its parts have run once: asked at the end.
                until(partial(made.is_healthy, name) if awaited else lambda: True, f"{name}: see {log.name}")
            yield made
        finally:
            for process in processes.values():
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        for database in databases.values():
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)")


def ask(machine: Machine, path: str, question: Any = None, *, secret: str = _SECRET) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{machine.ports['3000']}{path}",
        json.dumps(question).encode() if question else None,
        {"Content-Type": "application/json", "X-Admin-Secret": secret},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own address
        return json.load(answer)


def test_the_services_bill_a_month_that_is_launched_over_graphql(
    machine: Machine, double: StripeDouble, make_source_tables: Callable[[str], Any]
) -> None:
    source = make_source_tables(machine.environment("serve")["DATABASE_URL"])
    source.accounts([{"user_id": "user-0001", "stripe_customer_id": "cus_1"}])
    source.calls([("user-0001", 1234, Month(2025, 3).start.replace(day=9))])
    double.add_customer("cus_1")
    before = machine.written()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(machine, "/graphql", {"query": "{ version }"}, secret="wrong")
    selector = {
        "repositoryLocationName": "spell_billing",
        "repositoryName": "__repository__",
        "jobName": "monthly_billing",
    }
    tags = [{"key": "dagster/partition", "value": "2025-03-01"}]
    params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}

    launched = ask(machine, "/graphql", {"query": _LAUNCH, "variables": {"params": params}})
    assert launched["data"]["launchRun"]["__typename"] == "LaunchRunSuccess", launched

    def ended() -> bool:
        runs = ask(machine, "/admin/billing/months/2025-03")["runs"]
        assert {run["status"] for run in runs} <= {"QUEUED", "NOT_STARTED", "STARTING", "STARTED", "SUCCESS"}
        return bool(runs) and runs[0]["status"] == "SUCCESS"

    until(ended, "the month is billed")
    until(partial(machine.is_healthy, "daemon"), "the daemon is alive")
    assert [invoice.total_cents for invoice in double.invoices()] == [1234]
    assert double.violations == []
    home = machine.path(machine.image.environment["SPELL_BILLING_HOME"])
    assert (home / "usage" / "2025-03" / "v0001" / "manifest.json").is_file()
    # A container's own folders are read-only, but for those that compose lets it write to.
    assert machine.written() == before
