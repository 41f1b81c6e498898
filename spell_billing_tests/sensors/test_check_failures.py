"""`billing_checks_failed`: a check that did not pass reaches people once per run, blocking or not."""

from datetime import timedelta

import pytest
import time_machine

from spell_billing.core.errors import AlertError
from spell_billing_tests.sensors.world import World

SENSOR = "billing_checks_failed"


def test_a_failed_check_that_blocks_nothing_is_told_once_per_run(world: World) -> None:
    world.calls("2025-03", ("user-0001", 100))
    world.bill("2025-03")

    for _ in range(3):
        world.tick(SENSOR)
    assert [text.splitlines() for text in world.web.texts] == [
        [
            "The check every_user_invoiced failed for 2025-03",
            "1 failed (no_billing_account): user-0001",
            "The run went on; invoices that it sent stand.",
            "Next: spell-billing status --month 2025-03, then spell-billing reconcile --month 2025-03",
        ]
    ]

    world.bill("2025-03")
    world.tick(SENSOR)
    assert len(world.web.requests) == 2

    world.accounts("user-0001")
    world.bill("2025-03")
    world.tick(SENSOR)
    assert len(world.web.requests) == 2


def test_a_blocking_check_says_that_nothing_was_sent(small_world: World) -> None:
    source = small_world.source
    source.execute(
        "ALTER TABLE usage_counters RENAME TO old",
        "CREATE TABLE usage_counters "
        "(id INTEGER PRIMARY KEY, user_id TEXT, cost_cents INTEGER, created_at TEXT)",
    )
    small_world.calls("2025-03", ("user-0001", 100))
    source.execute("UPDATE usage_counters SET cost_cents = NULL")
    assert not small_world.run("2025-03").success

    small_world.tick(SENSOR)

    (text,) = small_world.web.texts
    assert text.startswith("The check no_bad_rows failed for 2025-03\n")
    assert "nothing was sent to Stripe" in text
    assert text.endswith("Next: spell-billing bill --month 2025-03")


def test_the_cursor_stays_until_the_alert_is_out_and_moves_on_after(
    small_world: World, clock: time_machine.Traveller
) -> None:
    small_world.calls("2025-03", ("user-0001", 100))
    small_world.bill("2025-03")
    small_world.web.status = 500
    with pytest.raises(AlertError):
        small_world.tick(SENSOR)
    before = small_world.cursors[SENSOR]
    clock.shift(timedelta(hours=30))
    with pytest.raises(AlertError):
        small_world.tick(SENSOR)
    assert small_world.cursors[SENSOR] == before

    small_world.web.status = 200
    small_world.tick(SENSOR)
    small_world.tick(SENSOR)

    assert small_world.web.titles == ["The check every_user_invoiced failed for 2025-03"]
    assert small_world.cursors[SENSOR] != before


def test_a_run_whose_checks_pass_is_not_told(small_world: World) -> None:
    small_world.accounts("user-0001")
    small_world.calls("2025-03", ("user-0001", 100))
    small_world.bill("2025-03")

    tick = small_world.tick(SENSOR)

    assert tick.skip_message == "No check failed."
    assert small_world.web.requests == []
