"""`retry_leftovers`: what failed for a passing reason is tried again by itself, less and less often."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import time_machine

from spell_billing.core.errors import AlertError
from spell_billing.core.month import Month
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.runs import RunRecord, RunResult
from spell_billing.orchestration.instance import living_process
from spell_billing.orchestration.resources import LedgerResource
from spell_billing.orchestration.sensors.retry_leftovers import PAUSES, Try, newest_streak
from spell_billing.stripe_double import FaultKind
from spell_billing_tests.sensors.world import World

SENSOR = "retry_leftovers"
MARCH = Month(2025, 3)
NOON = datetime(2025, 4, 1, 12, tzinfo=UTC)


def requested(world: World) -> list[tuple[str | None, str | None]]:
    """Tick; give month and number of each run that was requested."""
    requests = world.tick(SENSOR).run_requests or []
    return [
        (request.tags.get("dagster/partition"), request.tags.get("spell_billing/retry"))
        for request in requests
    ]


@pytest.mark.parametrize(
    ("again", "length"),
    [((), 0), ((False,), 0), ((True,), 1), ((True, True, False, True), 2), ((False, True, True), 0)],
)
def test_a_streak_ends_where_a_person_was_to_act_or_the_month_was_done(
    again: tuple[bool, ...], length: int
) -> None:
    tries = [
        Try(f"run-{number}", NOON - timedelta(hours=number), again=each) for number, each in enumerate(again)
    ]

    assert len(newest_streak(list(reversed(tries)))) == length


def test_the_pauses_grow() -> None:
    assert (timedelta(minutes=15), timedelta(hours=1), timedelta(hours=4), timedelta(hours=12)) == PAUSES


def test_a_month_that_stripe_did_not_answer_is_tried_again_until_it_is_done(
    world: World, clock: time_machine.Traveller
) -> None:
    world.accounts("user-0001", "user-0002")
    world.calls("2025-03", ("user-0001", 100), ("user-0002", 100))
    world.stripe_is_down()
    assert not world.run("2025-03").success
    assert requested(world) == []

    clock.shift(timedelta(minutes=16))
    assert requested(world) == [("2025-03-01", "1")]
    assert not world.run("2025-03").success
    assert requested(world) == []
    clock.shift(timedelta(minutes=16))
    assert requested(world) == []
    clock.shift(timedelta(minutes=45))
    assert requested(world) == [("2025-03-01", "2")]

    world.stripe_is_back()
    world.bill("2025-03")
    clock.shift(timedelta(days=2))
    assert requested(world) == []
    assert sorted(invoice.total_cents for invoice in world.double.invoices()) == [100, 100]
    assert world.web.requests == []


def test_users_left_over_by_a_run_that_went_on_are_tried_again(
    small_world: World, clock: time_machine.Traveller
) -> None:
    small_world.accounts("user-0001")
    small_world.calls("2025-03", ("user-0001", 100))
    small_world.double.arm(FaultKind.ERROR_500_UNSTORED, operation="invoices.create", times=2)
    small_world.run("2025-03")
    with small_world.ledger() as ledger:
        last = ledger.runs(MARCH)[0].result
    assert last is RunResult.UNFINISHED

    clock.shift(timedelta(minutes=16))

    assert requested(small_world) == [("2025-03-01", "1")]


def test_the_same_try_is_requested_under_one_key(small_world: World, clock: time_machine.Traveller) -> None:
    small_world.accounts("user-0001")
    small_world.calls("2025-03", ("user-0001", 100))
    small_world.stripe_is_down()
    small_world.run("2025-03")
    clock.shift(timedelta(minutes=16))

    keys = {small_world.tick(SENSOR).run_requests[0].run_key for _ in range(3)}

    assert len(keys) == 1


def test_after_the_last_try_people_are_told_once_and_nothing_is_requested(
    small_world: World, clock: time_machine.Traveller
) -> None:
    small_world.accounts("user-0001")
    small_world.calls("2025-03", ("user-0001", 100))
    small_world.stripe_is_down()
    for number in range(5):
        assert not small_world.run("2025-03").success
        clock.shift(timedelta(hours=13))
        assert requested(small_world) == ([("2025-03-01", str(number + 1))] if number < 4 else [])
    clock.shift(timedelta(days=3))
    small_world.web.requests.clear()
    small_world.source.execute("DELETE FROM ledger_outbox")

    small_world.web.status = 500
    with pytest.raises(AlertError):
        small_world.tick(SENSOR)
    small_world.web.status = 200
    for _ in range(3):
        assert requested(small_world) == []

    (text,) = small_world.web.texts
    assert text.startswith(
        "2025-03 is not billed after 5 tries, and is not retried automatically\nNot sent yet: 1 user."
    )
    assert (
        "Next: check that Stripe, the network and the database respond, then spell-billing bill --month"
        in text
    )


@pytest.mark.parametrize("result", [RunResult.REFUSED, RunResult.USERS_LEFT])
def test_what_needs_a_person_is_left_to_people(
    small_world: World, clock: time_machine.Traveller, result: RunResult
) -> None:
    small_world.accounts("user-0001")
    small_world.calls("2025-03", ("user-0001", 100))
    small_world.run("2025-03", assets=["raw_usage", "user_usage", "invoice_drafts"])
    with small_world.ledger() as ledger:
        now = datetime.now(UTC)
        ledger.record_run(RunRecord("run-1", "2025-03", now, now, result))

    clock.shift(timedelta(days=2))

    assert requested(small_world) == []
    assert small_world.web.requests == []


def test_a_run_that_died_without_a_word_counts_as_one_to_try_again(
    small_world: World, clock: time_machine.Traveller
) -> None:
    run = small_world.start()
    assert requested(small_world) == []
    small_world.instance.report_run_failed(run, "The run worker is gone.")
    clock.shift(timedelta(minutes=16))

    assert requested(small_world) == [("2025-03-01", "1")]


def test_a_bill_command_that_was_killed_is_found_dead_and_tried_again(
    small_world: World, clock: time_machine.Traveller
) -> None:
    run = small_world.start({"spell_billing/lock": "run-of-one-that-died"})

    assert requested(small_world) == []
    failed = small_world.instance.get_run_by_id(run.run_id)
    assert failed is not None
    assert failed.status is dg.DagsterRunStatus.FAILURE
    clock.shift(timedelta(minutes=16))

    assert requested(small_world) == [("2025-03-01", "1")]


def test_a_bill_command_is_found_dead_once_its_lock_is_free(
    world: World, clock: time_machine.Traveller
) -> None:
    world.calls("2025-03", ("user-0001", 100))
    with world.ledger() as ledger, living_process(ledger) as tags:
        run = world.start(tags)
        assert requested(world) == []
        assert status(world, run) is dg.DagsterRunStatus.STARTED

    with world.ledger() as ledger, ledger.session(MARCH, Actor("someone"), wait_seconds=0):
        assert requested(world) == []
        assert status(world, run) is dg.DagsterRunStatus.STARTED

    assert requested(world) == []
    assert status(world, run) is dg.DagsterRunStatus.FAILURE
    clock.shift(timedelta(minutes=16))

    assert requested(world) == [("2025-03-01", "1")]


def test_a_run_of_which_no_lock_tells_is_left_alone(small_world: World) -> None:
    run = small_world.start()

    assert requested(small_world) == []
    assert status(small_world, run) is dg.DagsterRunStatus.STARTED


def status(world: World, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = world.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def test_a_run_that_dagster_itself_runs_again_is_not_tried_twice(
    small_world: World, clock: time_machine.Traveller
) -> None:
    retried = {"dagster/will_retry": "true", "dagster/auto_retry_run_id": "run-2"}
    run = small_world.start(retried, launched=True)
    small_world.instance.report_run_failed(run, "The run worker is gone.")
    clock.shift(timedelta(minutes=16))

    assert requested(small_world) == []


def test_a_run_that_dagster_said_it_runs_again_and_never_did_is_tried_again(
    small_world: World, clock: time_machine.Traveller
) -> None:
    run = small_world.start({"dagster/will_retry": "true"}, launched=True)
    small_world.instance.report_run_failed(run, "The run worker is gone.")
    clock.shift(timedelta(minutes=16))

    assert requested(small_world) == [("2025-03-01", "1")]


def test_a_canceled_run_waits_for_who_canceled_it(small_world: World, clock: time_machine.Traveller) -> None:
    small_world.instance.report_run_canceled(small_world.start())
    clock.shift(timedelta(days=1))

    assert requested(small_world) == []


def test_a_step_that_failed_for_want_of_its_database_is_tried_again_and_one_that_names_bad_data_is_not(
    small_world: World, clock: time_machine.Traveller
) -> None:
    small_world.source.execute("DROP TABLE usage_counters")
    assert not small_world.run("2025-03").success
    clock.shift(timedelta(minutes=16))
    assert requested(small_world) == []

    gone = f"sqlite:///{small_world.store}-gone.db"
    job = small_world.defs(ledger=LedgerResource(database_url=gone)).resolve_job_def("monthly_billing")
    failed = job.execute_in_process(
        instance=small_world.instance, tags={"dagster/partition": "2025-03-01"}, raise_on_error=False
    )
    assert not failed.success
    clock.shift(timedelta(minutes=16))

    assert requested(small_world) == [("2025-03-01", "1")]


def test_a_month_that_somebody_holds_is_left_alone(small_world: World, clock: time_machine.Traveller) -> None:
    small_world.instance.report_run_failed(small_world.start(), "The run worker is gone.")
    clock.shift(timedelta(minutes=16))
    with small_world.ledger() as ledger, ledger.session(MARCH, Actor("someone"), wait_seconds=0):
        assert requested(small_world) == []

    assert requested(small_world) == [("2025-03-01", "1")]
