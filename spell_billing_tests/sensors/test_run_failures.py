"""`billing_run_failed`: a billing run that failed reaches people once, with its own words."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import time_machine

from spell_billing.core.errors import AlertError
from spell_billing.orchestration.resources import LedgerResource
from spell_billing_tests.alerting.receivers import WebReceiver
from spell_billing_tests.sensors.world import World

SENSOR = "billing_run_failed"
NOT_CLOSED = "2025-04 is not closed: it ends on 2025-04-30 at 24:00 UTC."


def fail(world: World, **tags: str) -> dg.ExecuteInProcessResult:
    """Run a month that is not closed."""
    result = world.run("2025-04", tags=tags)
    assert not result.success
    return result


def test_a_failed_run_is_told_once_with_its_words_the_next_command_and_a_link(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_PUBLIC_URL", "https://dagster.example.com")
    run_id = fail(world, **{"spell_billing/actor": "ops@host"}).run_id

    for _ in range(3):
        world.tick(SENSOR)

    (text,) = world.web.texts
    assert text.splitlines() == [
        "The billing run of 2025-04 failed at raw_usage",
        f"{NOT_CLOSED} Only closed months are billed; try again after that.",
        f"Launched by ops@host; run {run_id}.",
        "Next: spell-billing bill --month 2025-04",
        f"https://dagster.example.com/runs/{run_id}",
    ]


def test_a_run_that_succeeds_is_nobodys_business(small_world: World) -> None:
    small_world.accounts("user-0001")
    small_world.calls("2025-03", ("user-0001", 100))
    small_world.bill("2025-03")

    tick = small_world.tick(SENSOR)

    assert tick.skip_message == "No billing run failed."
    assert small_world.web.requests == []


def test_the_cursor_stays_until_the_alert_is_out_on_every_channel(
    world: World, clock: time_machine.Traveller
) -> None:
    fail(world)
    with WebReceiver(status=503).running() as other:
        world.channels = [world.web.url(), other.url()]
        with pytest.raises(AlertError, match="did not go out on JSON"):
            world.tick(SENSOR)
        clock.shift(timedelta(minutes=5))
        with pytest.raises(AlertError):
            world.tick(SENSOR)
        assert json.loads(world.cursors[SENSOR] or "")["ids"] == {}

        other.status = 200
        world.tick(SENSOR)
        world.tick(SENSOR)

    assert other.titles == ["The billing run of 2025-04 failed at raw_usage"]
    assert [title for title in world.web.titles if title.startswith("The billing run")] == other.titles
    assert json.loads(world.cursors[SENSOR] or "")["ids"]


def test_one_channel_that_is_down_keeps_no_failure_from_the_others(small_world: World) -> None:
    for _ in range(4):
        fail(small_world)
    with WebReceiver(status=503).running() as other:
        small_world.channels = [small_world.web.url(), other.url()]
        with pytest.raises(AlertError):
            small_world.tick(SENSOR)

    assert len([title for title in small_world.web.titles if title.startswith("The billing run")]) == 4


def test_a_blocking_check_that_stopped_the_run_speaks_for_itself(small_world: World) -> None:
    small_world.accounts("user-0001")
    small_world.source.execute("ALTER TABLE usage_counters RENAME TO old")
    small_world.source.execute(
        "CREATE TABLE usage_counters "
        "(id INTEGER PRIMARY KEY, user_id TEXT, cost_cents INTEGER, created_at TEXT)"
    )
    small_world.calls("2025-03", ("user-0001", 100))
    small_world.source.execute("UPDATE usage_counters SET cost_cents = NULL")
    assert not small_world.run("2025-03").success

    small_world.tick(SENSOR)

    (text,) = small_world.web.texts
    assert "The billing run of 2025-03 failed at raw_usage_no_bad_rows\nno_bad_rows: " in text


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        pytest.param(
            {"dagster/will_retry": "true", "dagster/auto_retry_run_id": "run-2"}, True, id="run again"
        ),
        pytest.param({"dagster/will_retry": "false"}, False, id="not run again"),
    ],
)
def test_a_failure_that_dagster_runs_again_is_not_told(
    small_world: World,
    tags: dict[str, str],
    told: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    run = small_world.start(tags, launched=True)
    small_world.instance.report_run_failed(run, "The run worker is gone.")

    small_world.tick(SENSOR)

    assert (small_world.web.requests == []) is told


def test_a_failure_whose_retry_never_comes_is_told_in_the_end(
    small_world: World, clock: time_machine.Traveller
) -> None:
    run = small_world.start({"dagster/will_retry": "true"}, launched=True)
    small_world.instance.report_run_failed(run, "The run worker is gone.")
    small_world.tick(SENSOR)
    assert small_world.web.requests == []

    clock.shift(timedelta(minutes=11))
    small_world.tick(SENSOR)

    assert len(small_world.web.requests) == 1


def test_a_failure_that_dagster_cannot_run_again_is_told_at_once(small_world: World) -> None:
    run = small_world.start({"dagster/will_retry": "true"})
    small_world.instance.report_run_failed(run, "The process that ran it has died.")

    small_world.tick(SENSOR)

    assert small_world.web.titles == ["The billing run of 2025-03 failed"]


def test_a_canceled_run_is_told(small_world: World) -> None:
    small_world.instance.report_run_canceled(small_world.start())

    small_world.tick(SENSOR)

    assert small_world.web.titles == ["The billing run of 2025-03 was canceled"]


def test_assets_launched_alone_count_and_other_jobs_do_not(small_world: World) -> None:
    @dg.op
    def breaks() -> None:
        raise dg.Failure("not ours")

    @dg.job
    def other() -> None:
        breaks()

    other.execute_in_process(instance=small_world.instance, raise_on_error=False)
    small_world.tick(SENSOR)
    assert small_world.web.requests == []

    alone = small_world.defs().resolve_implicit_global_asset_job_def()
    alone.get_subset(asset_selection={dg.AssetKey("raw_usage")}).execute_in_process(
        instance=small_world.instance, tags={"dagster/partition": "2025-04-01"}, raise_on_error=False
    )
    small_world.tick(SENSOR)

    assert small_world.web.titles == ["The billing run of 2025-04 failed at raw_usage"]


def test_the_first_tick_looks_back_a_day_and_no_further(
    small_world: World, clock: time_machine.Traveller
) -> None:
    fail(small_world)
    clock.shift(timedelta(hours=25))
    run_id = fail(small_world).run_id
    clock.shift(timedelta(hours=23))

    small_world.tick(SENSOR)

    (text,) = small_world.web.texts
    assert run_id in text


def test_a_failure_of_the_ledgers_database_is_told_without_it(small_world: World) -> None:
    fail(small_world)
    gone = LedgerResource(database_url="sqlite:////nowhere/at/all.db")

    for _ in range(2):
        small_world.tick(SENSOR, ledger=gone)

    assert small_world.web.titles == ["The billing run of 2025-04 failed at raw_usage"]


def test_many_failures_are_told_over_several_ticks(
    small_world: World, clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spell_billing.orchestration.sensors.ended_runs.RUNS_PER_TICK", 2)
    for _ in range(5):
        fail(small_world)
    clock.shift(timedelta(minutes=2))

    told = []
    for _ in range(4):
        small_world.tick(SENSOR)
        told.append(len(small_world.web.requests))

    assert told == [2, 4, 5, 5]


def test_a_backfill_that_could_not_launch_its_runs_is_told_once(small_world: World) -> None:
    def backfill(status: str, error: Any = None) -> None:
        from dagster._core.execution.backfill import (  # noqa: PLC0415 - Dagster makes them in its daemon
            BulkActionStatus,
            PartitionBackfill,
        )

        small_world.instance.add_backfill(
            PartitionBackfill(
                backfill_id=f"backfill-{status}",
                status=BulkActionStatus[status],
                from_failure=False,
                tags={},
                backfill_timestamp=datetime.now(UTC).timestamp(),
                asset_selection=[dg.AssetKey("stripe_invoices")],
                error=error,
            )
        )

    backfill("FAILED")
    backfill("COMPLETED_SUCCESS")

    for _ in range(2):
        small_world.tick(SENSOR)

    (text,) = small_world.web.texts
    assert text.splitlines() == [
        "A backfill of billing could not launch its runs",
        "Next: look at backfill backfill-FAILED in Dagster, then start it again.",
    ]
