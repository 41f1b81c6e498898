"""The schedule asks for every closed month in which a run has something to do, and for no other."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from spell_billing.core.errors import SettingsError
from spell_billing.core.month import Month
from spell_billing.orchestration.resources import LedgerResource
from spell_billing.orchestration.schedules import checked_cron, tick_that_bills, ticks
from spell_billing_tests.sensors.world import World

NAME = "monthly_billing_schedule"
DRAFTING = ["raw_usage", "user_usage", "invoice_drafts"]


@pytest.fixture
def instance(instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
    return instance_on_disk


def months(world: World, text: str = "2025-04-01", **resources: object) -> list[str]:
    requests = world.schedule_tick(text, **resources).run_requests or []
    return [request.tags["dagster/partition"].removesuffix("-01") for request in requests]


def test_an_empty_ledger_asks_for_the_last_closed_month_alone(world: World) -> None:
    assert months(world) == ["2025-03"]


def test_months_are_asked_for_from_the_first_recorded_one_on_oldest_first_and_at_most_twelve(
    world: World,
) -> None:
    world.run("2025-02", assets=DRAFTING)

    assert months(world) == ["2025-02", "2025-03"]
    assert months(world, "2025-03-31T23:59:59") == ["2025-02"]
    assert months(world, "2026-06-01") == [
        *(f"2025-{number:02}" for number in range(2, 13)),
        "2026-01",
    ]


def test_a_month_that_is_billed_or_waits_for_a_person_is_not_asked_for(world: World) -> None:
    world.accounts("user-0001")
    world.calls("2025-02", ("user-0001", 100))
    world.calls("2025-03", ("user-0002", 100))
    world.bill("2025-02")
    world.bill("2025-03")

    asked = world.schedule_tick()

    assert not asked.run_requests
    assert asked.skip_message == "Every closed month is billed, being billed, or waits for an operator."


def test_a_month_whose_run_died_on_the_way_is_asked_for_and_so_is_one_that_died_at_the_very_end(
    world: World,
) -> None:
    world.accounts("user-0001")
    world.calls("2025-02", ("user-0001", 100))
    world.calls("2025-03", ("user-0001", 100))
    world.bill("2025-02")
    world.bill("2025-03")
    world.source.execute(
        "UPDATE ledger_months SET billed_at = NULL WHERE month = '2025-02'",
        "UPDATE ledger_invoices SET state = 'planned' WHERE month = '2025-03'",
    )

    assert months(world) == ["2025-02", "2025-03"]


def test_a_month_under_way_is_not_asked_for_and_an_ended_run_leaves_it_to_the_ledger(
    small_world: World,
) -> None:
    run = small_world.instance.create_run_for_job(
        small_world.defs().resolve_job_def("monthly_billing"),
        tags={"dagster/partition": "2025-03-01"},
        status=dg.DagsterRunStatus.STARTED,
    )
    assert months(small_world) == []

    small_world.instance.report_run_failed(run, "gone")

    assert months(small_world) == ["2025-03"]


def test_each_tick_has_run_keys_of_its_own(small_world: World) -> None:
    texts = ("2025-04-01", "2025-04-01", "2025-04-02")
    keys = [small_world.schedule_tick(text).run_requests[0].run_key for text in texts]

    assert keys[0] == keys[1] != keys[2]
    assert keys[0] == "2025-03 2025-04-01T00:00:00+00:00"


def test_months_before_the_first_billed_one_are_never_asked_for(
    small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_world.run("2025-01", assets=DRAFTING)
    monkeypatch.setenv("SPELL_BILLING_FIRST_MONTH", "2025-03")
    assert months(small_world) == ["2025-03"]

    monkeypatch.setenv("SPELL_BILLING_FIRST_MONTH", "2025-04")
    asked = small_world.schedule_tick()
    assert not asked.run_requests
    assert asked.skip_message == "No month from the first billed one, 2025-04, on is closed yet."


def test_a_ledger_that_does_not_answer_is_no_reason_to_lose_the_month(small_world: World) -> None:
    gone = LedgerResource(database_url="sqlite:////nowhere/at/all.db")

    assert months(small_world, ledger=gone) == ["2025-03"]


@pytest.mark.parametrize("text", ["", "monthly", "* * * * * *", "0 0 31 2 *", "61 0 1 * *"])
def test_a_cron_schedule_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match=r"BILLING_CRON=.* is not a cron schedule. Write five fields"):
        checked_cron(text)


@pytest.mark.parametrize(
    ("cron", "moment"),
    [
        ("0 0 1 * *", "2025-04-01T00:00"),
        ("30 6 2 * *", "2025-04-02T06:30"),
        ("0 * * * *", "2025-04-01T00:00"),
        ("0 0 * * 1", "2025-04-07T00:00"),
        ("@monthly", "2025-04-01T00:00"),
    ],
)
def test_the_first_tick_at_which_a_month_is_closed_bills_it(cron: str, moment: str) -> None:
    expected = datetime.fromisoformat(moment).replace(tzinfo=UTC)

    assert tick_that_bills(Month(2025, 3), checked_cron(cron)) == expected


def test_a_month_is_asked_for_when_its_grace_is_over_and_not_by_the_tick_before(
    small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_GRACE_MINUTES", "90")

    assert months(small_world, "2025-04-01T00:00") == []
    assert months(small_world, "2025-04-01T01:30") == ["2025-03"]


def test_a_grace_that_ends_before_the_tick_that_was_chosen_brings_nothing_forward(
    small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_GRACE_MINUTES", "90")
    monkeypatch.setenv("BILLING_CRON", "0 9 3 * *")

    assert months(small_world, "2025-04-01T01:30") == []
    assert months(small_world, "2025-04-03T09:00") == ["2025-03"]


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(0, "0 0 1 * *"), (90, ["0 0 1 * *", "30 1 1 * *"]), (10_080, ["0 0 1 * *", "0 0 8 * *"])],
)
def test_the_end_of_the_grace_is_a_tick(minutes: int, expected: str | list[str]) -> None:
    assert ticks("0 0 1 * *", timedelta(minutes=minutes)) == expected
