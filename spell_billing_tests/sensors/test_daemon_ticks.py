"""The daemon's own loops over our schedule and sensors, with settings from the environment."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import time_machine
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import (
    consume_new_runs_for_automatic_reexecution,
)
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs

from spell_billing.core.month import Month
from spell_billing.definitions import defs
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.alerting.receivers import WebReceiver
from spell_billing_tests.sensors.world import on_its_own

# Dagster reads a property of its own that it calls deprecated, when code is loaded into its own process.
pytestmark = pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`")

LOG = logging.getLogger("daemon")
SENSORS = {
    "billing_run_failed",
    "billing_checks_failed",
    "users_not_invoiced",
    "month_unbilled",
    "retry_leftovers",
}


@pytest.fixture
def source(
    make_source_tables: Callable[..., Any],
    double: StripeDouble,
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Give the platform's tables with one user and her calls of five months."""
    for name, value in {
        "DATABASE_URL": sqlite_url,
        "STRIPE_API_KEY": "sk_test_daemon",
        "STRIPE_API_BASE": double.base_url,
        "SPELL_BILLING_USAGE_STORE": str(tmp_path / "usage"),
    }.items():
        monkeypatch.setenv(name, value)
    source = make_source_tables(sqlite_url)
    with Ledger(parse_database_url(sqlite_url, setting="DATABASE_URL")):
        pass
    double.add_customer("cus_1")
    source.accounts([{"user_id": "user-0001", "stripe_customer_id": "cus_1"}])
    source.calls(
        [("user-0001", 100 * number, Month(2025, number).start.replace(day=9)) for number in range(1, 6)]
    )
    return source


@contextmanager
def daemon(instance: dg.DagsterInstance) -> Iterator[WorkspaceProcessContext]:
    # In this process, whose clock the test sets; test_live_instance has the code in a server of its own.
    code = LoadableTargetOrigin(executable_path=sys.executable, module_name="spell_billing.definitions")
    target = InProcessWorkspaceLoadTarget([InProcessCodeLocationOrigin(code, location_name="billing")])
    with create_test_daemon_workspace_context(target, instance) as context:
        yield context


def schedules(context: WorkspaceProcessContext, now: datetime) -> None:
    list(launch_scheduled_runs(context, LOG, end_datetime_utc=now, iteration_times={}))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def draft_january(url: str) -> None:
    with (
        Ledger(parse_database_url(url, setting="DATABASE_URL")) as ledger,
        ledger.session(Month(2025, 1), Actor("test")) as session,
    ):
        session.replace_drafts([], usage_version="v1", calls=0, usage_cents=Decimal(0))


def runs(instance: dg.DagsterInstance) -> list[tuple[str, str]]:
    """Give partition and status of every billing run, in the order they were requested."""
    billing = dg.RunsFilter(job_name="monthly_billing")
    records = sorted(instance.get_run_records(billing), key=lambda record: record.storage_id)
    return [
        (record.dagster_run.tags["dagster/partition"][:7], record.dagster_run.status.value)
        for record in records
    ]


@pytest.mark.usefixtures("source")
@on_its_own
def test_a_daemon_down_for_months_bills_each_missed_month_once_oldest_first(
    double: StripeDouble, clock: time_machine.Traveller
) -> None:
    def tick(text: str) -> None:
        clock.move_to(moment(text))
        schedules(context, moment(text))

    with (
        dg.instance_for_test(synchronous_run_launcher=True, synchronous_run_coordinator=True) as instance,
        daemon(instance) as context,
    ):
        tick("2025-01-20T12:00:00")
        assert runs(instance) == []
        tick("2025-02-01T00:00:30")
        assert runs(instance) == [("2025-01", "SUCCESS")]

        tick("2025-06-15T08:00:00")
        missed = [(f"2025-{number:02}", "SUCCESS") for number in range(1, 6)]
        assert runs(instance) == missed
        tick("2025-06-15T08:01:00")
        tick("2025-06-30T23:59:59")
        assert runs(instance) == missed

    assert [invoice.total_cents for invoice in double.invoices()] == [100, 200, 300, 400, 500]
    assert double.violations == []


@pytest.mark.usefixtures("source")
@on_its_own
def test_runs_that_still_wait_in_the_queue_are_not_requested_again(
    clock: time_machine.Traveller, sqlite_url: str
) -> None:
    draft_january(sqlite_url)
    with dg.instance_for_test() as instance, daemon(instance) as context:
        requested = []
        for text in ("2025-02-20T00:00:00", "2025-06-15T08:00:00", "2025-07-01T00:00:10"):
            clock.move_to(moment(text))
            schedules(context, moment(text))
            requested.append(runs(instance))

    assert requested == [
        [],
        [(f"2025-{number:02}", "QUEUED") for number in range(1, 6)],
        [(f"2025-{number:02}", "QUEUED") for number in range(1, 7)],
    ]


@pytest.mark.usefixtures("source")
@on_its_own
def test_a_month_whose_run_failed_is_requested_again_by_the_next_tick(
    double: StripeDouble, clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        dg.instance_for_test(synchronous_run_launcher=True, synchronous_run_coordinator=True) as instance,
        daemon(instance) as context,
    ):
        for text, key in (
            ("2025-02-20T00:00:00", "sk_test_daemon"),
            ("2025-03-01T00:00:10", "not a key"),
            ("2025-04-01T00:00:10", "sk_test_daemon"),
        ):
            monkeypatch.setenv("STRIPE_API_KEY", key)
            clock.move_to(moment(text))
            schedules(context, moment(text))

        assert runs(instance) == [("2025-02", "FAILURE"), ("2025-02", "SUCCESS"), ("2025-03", "SUCCESS")]
    assert [invoice.total_cents for invoice in double.invoices()] == [200, 300]


@pytest.mark.usefixtures("source")
@on_its_own
def test_every_sensor_ticks_in_the_daemon_and_what_failed_is_told_once(
    clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WebReceiver().running() as web:
        monkeypatch.setenv("ALERT_URLS", web.url())
        with dg.instance_for_test() as instance, daemon(instance) as context:
            job = defs.resolve_job_def("monthly_billing")
            result = job.execute_in_process(
                instance=instance, tags={"dagster/partition": "2025-04-01"}, raise_on_error=False
            )
            assert not result.success
            for _ in range(4):
                list(execute_sensor_iteration(context, LOG, None, None))
                clock.shift(timedelta(seconds=61))
            states = {state.instigator_name: state for state in instance.all_instigator_state()}
            said = {
                name: {
                    tick.status.value
                    for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)
                }
                for name, state in states.items()
            }

    assert [said[name] for name in sorted(SENSORS)] == [{"SKIPPED"}] * len(SENSORS)
    assert web.titles == ["The billing run of 2025-04 failed at raw_usage"]


@pytest.mark.usefixtures("source")
@on_its_own
def test_a_killed_bill_is_run_again_by_our_sensor_and_a_killed_worker_by_dagster_each_once(
    clock: time_machine.Traveller, sqlite_url: str
) -> None:
    draft_january(sqlite_url)
    retries = {"run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False}}

    def dagster_looks() -> None:
        list(consume_new_runs_for_automatic_reexecution(context, instance.get_run_records(), LOG))

    def sensors_tick() -> None:
        list(execute_sensor_iteration(context, LOG, None, None))
        clock.shift(timedelta(seconds=61))

    with dg.instance_for_test(overrides=retries) as instance, daemon(instance) as context:
        instance.create_run_for_job(
            defs.resolve_job_def("monthly_billing"),
            tags={"dagster/partition": "2025-01-01", "spell_billing/lock": "run-of-one-that-died"},
            status=dg.DagsterRunStatus.STARTED,
        )
        clock.move_to(moment("2025-02-20T00:00:00"))
        schedules(context, moment("2025-02-20T00:00:00"))
        clock.move_to(moment("2025-03-01T00:00:10"))
        schedules(context, moment("2025-03-01T00:00:10"))
        (launched,) = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": "2025-02-01"}))
        instance.report_run_failed(launched, "The run worker is gone.")
        assert runs(instance) == [("2025-01", "STARTED"), ("2025-02", "FAILURE")]

        sensors_tick()
        dagster_looks()
        after_dagster = [("2025-01", "FAILURE"), ("2025-02", "FAILURE"), ("2025-02", "QUEUED")]
        assert runs(instance) == after_dagster

        clock.shift(timedelta(minutes=16))
        for _ in range(2):
            sensors_tick()
            dagster_looks()
        assert runs(instance) == [*after_dagster, ("2025-01", "QUEUED")]
