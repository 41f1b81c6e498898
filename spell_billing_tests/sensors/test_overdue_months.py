"""`month_unbilled`: a closed month that is not billed in time reaches people once, and says why."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import time_machine

from spell_billing.core.errors import AlertError
from spell_billing.core.month import Month
from spell_billing.ledger.rows import Actor
from spell_billing.stripe_double import FaultKind
from spell_billing_tests.sensors.world import World

SENSOR = "month_unbilled"
DUE = "It should have been since 2025-04-01 00:00 UTC."
NEXT = "Next: spell-billing bill --month 2025-03"


def late(clock: time_machine.Traveller, hours: int = 6) -> None:
    clock.move_to(datetime(2025, 4, 1, hours, 0, 1, tzinfo=UTC))


def test_a_month_that_nobody_billed_is_told_once_after_the_deadline(
    world: World, clock: time_machine.Traveller
) -> None:
    late(clock, 5)
    world.tick(SENSOR)
    assert world.web.requests == []

    late(clock)
    for _ in range(3):
        world.tick(SENSOR)

    assert [text.splitlines() for text in world.web.texts] == [
        [
            "2025-03 is not billed",
            DUE,
            (
                "No draft was made. No run was ever launched: "
                "check that Dagster's daemon runs and the schedule is on."
            ),
            NEXT,
        ]
    ]


def test_a_month_billed_in_time_is_not_told(world: World, clock: time_machine.Traveller) -> None:
    world.accounts("user-0001")
    world.calls("2025-03", ("user-0001", 100))
    world.bill("2025-03")
    late(clock)

    assert world.tick(SENSOR).skip_message == "No month is overdue."
    assert world.web.requests == []


def test_users_who_wait_for_a_person_are_not_this_sensors_business(
    world: World, clock: time_machine.Traveller
) -> None:
    world.calls("2025-03", ("user-0001", 100))
    world.bill("2025-03")
    late(clock)

    world.tick(SENSOR)

    assert world.web.requests == []


def test_a_run_that_failed_gives_its_words(small_world: World, clock: time_machine.Traveller) -> None:
    small_world.source.execute("DROP TABLE usage_counters")
    assert not small_world.run("2025-03").success
    late(clock)

    small_world.tick(SENSOR)

    (text,) = small_world.web.texts
    assert "No draft was made. The last run ended early: " in text
    assert "usage_counters" in text


def test_a_run_still_at_it_says_how_far_it_is(world: World, clock: time_machine.Traveller) -> None:
    world.accounts("user-0001", "user-0002", "user-0003")
    world.calls("2025-03", ("user-0001", 100), ("user-0002", 100), ("user-0003", 100))
    world.run("2025-03", assets=["raw_usage", "user_usage", "invoice_drafts"])
    late(clock)
    with world.ledger() as ledger, ledger.session(Month(2025, 3), Actor("someone"), wait_seconds=0):
        world.tick(SENSOR)

    (text,) = world.web.texts
    assert "A run is still at it: 0 of 3 users are invoiced." in text


def test_drafts_only_and_users_to_be_tried_again_are_told_as_such(
    small_world: World, clock: time_machine.Traveller
) -> None:
    small_world.accounts("user-0001")
    small_world.calls("2025-03", ("user-0001", 100))
    small_world.run("2025-03", assets=["raw_usage", "user_usage", "invoice_drafts"])
    late(clock)
    small_world.tick(SENSOR)

    (text,) = small_world.web.texts
    assert "It was drafted, and nothing was sent to Stripe." in text

    small_world.source.execute("DELETE FROM ledger_outbox")
    small_world.stripe_is_down()
    assert not small_world.run("2025-03").success
    small_world.tick(SENSOR)

    # Stripe was never reached: the month is not pinned.
    assert "It was drafted, and nothing was sent to Stripe." in small_world.web.texts[1]

    small_world.source.execute("DELETE FROM ledger_outbox")
    small_world.stripe_is_back()
    small_world.double.arm(FaultKind.ERROR_500_UNSTORED, operation="invoices.create", times=2)
    small_world.run("2025-03")
    small_world.tick(SENSOR)

    assert "To be tried again: 1 user." in small_world.web.texts[2]


def test_the_alert_that_did_not_go_out_is_sent_by_the_next_tick(
    small_world: World, clock: time_machine.Traveller
) -> None:
    late(clock)
    small_world.web.status = 500
    with pytest.raises(AlertError):
        small_world.tick(SENSOR)

    small_world.web.status = 200
    small_world.tick(SENSOR)
    small_world.tick(SENSOR)

    assert small_world.web.titles == ["2025-03 is not billed"]


def test_a_month_opened_again_has_its_own_deadline_and_alert(
    small_world: World, clock: time_machine.Traveller
) -> None:
    late(clock)
    small_world.tick(SENSOR)
    small_world.accounts("user-0001")
    small_world.calls("2025-03", ("user-0001", 100))
    small_world.bill("2025-03")
    small_world.tick(SENSOR)
    # As `spell-billing void` leaves it: the invoice is void, to be billed again.
    small_world.source.execute(
        "UPDATE ledger_invoices SET state = 'void', reason = 'voided', "
        "updated_at = '2025-04-01 08:00:00.000000'"
    )
    late(clock, 13)
    small_world.tick(SENSOR)
    assert len(small_world.web.requests) == 1

    late(clock, 14)
    small_world.tick(SENSOR)
    small_world.tick(SENSOR)

    assert len(small_world.web.requests) == 2
    assert "Voided, to be billed again: 1 user." in small_world.web.texts[1]


def test_the_deadline_can_be_set(
    small_world: World, clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_DEADLINE_HOURS", "48")
    late(clock, 23)
    small_world.tick(SENSOR)
    assert small_world.web.requests == []

    clock.shift(timedelta(hours=26))
    small_world.tick(SENSOR)

    assert small_world.web.titles == ["2025-03 is not billed"]


def test_a_run_that_only_dagster_knows_of_counts_as_at_it(
    small_world: World, clock: time_machine.Traveller
) -> None:
    small_world.instance.create_run_for_job(
        small_world.defs().resolve_job_def("monthly_billing"),
        tags={"dagster/partition": "2025-03-01"},
        status=dg.DagsterRunStatus.STARTING,
    )
    late(clock)

    small_world.tick(SENSOR)

    assert "A run is still at it: 0 of 0 users are invoiced." in small_world.web.texts[0]
