"""`spend_alerts`: each threshold of a spend limit is told once a month, whatever usage and limits do."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import time_machine

from spell_billing.core.errors import SettingsError, UsageError
from spell_billing.core.month import Month
from spell_billing.ledger.feed import final_id, read_feed
from spell_billing.orchestration.resources import UsageResource
from spell_billing.settings.notifications import NotificationSettings
from spell_billing.usage.source import open_usage_source
from spell_billing_tests.sensors.world import World

SENSOR = "spend_alerts"


@pytest.fixture
def limited(world: World, clock: time_machine.Traveller) -> World:
    """Give a world on each database whose accounts can have limits; it is 20 April."""
    return _limited(world, clock)


@pytest.fixture
def small_limited(small_world: World, clock: time_machine.Traveller) -> World:
    return _limited(small_world, clock)


def _limited(world: World, clock: time_machine.Traveller) -> World:
    clock.move_to(datetime(2025, 4, 20, tzinfo=UTC))
    world.source.execute("ALTER TABLE billing_accounts ADD COLUMN spend_limit_cents bigint")
    return world


def limit(world: World, user: str, cents: object) -> None:
    change = f"UPDATE billing_accounts SET spend_limit_cents = {cents} WHERE user_id = '{user}'"
    world.source.execute(change)


def said(world: World) -> str:
    return str(world.tick(SENSOR).skip_message)


def told(world: World) -> list[tuple[str | None, int, int, int]]:
    """Give the events: user, percent, so far and limit, in their order."""
    with world.ledger() as ledger, ledger.reading() as connection:
        events = read_feed(connection, after=0, until=final_id(connection), limit=1_000)
    return [
        (event.user_id, event.reached.percent, event.reached.so_far_cents, event.reached.limit_cents)
        for _, event in events
        if event.reached is not None
    ]


@pytest.mark.both_databases
def test_the_highest_threshold_that_is_reached_is_told_once(limited: World) -> None:
    limited.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 100}])
    limited.accounts("anna", "bert", "carl", "dora", "emil")
    limited.source.execute("UPDATE billing_accounts SET plan_id = 'pro' WHERE user_id = 'bert'")
    for user in ("anna", "bert", "carl", "emil"):
        limit(limited, user, 1000)
    limit(limited, "emil", 0)
    limited.calls("2025-04", ("anna", 499), ("bert", 900), ("carl", 5_000), ("dora", 9_999), ("emil", 5))
    limited.calls("2025-03", ("anna", 9_999))

    assert said(limited) == "2 users reached a threshold."
    assert said(limited) == "No user reached a threshold."
    limited.calls("2025-04", ("anna", 1), ("bert", 99))
    assert said(limited) == "1 user reached a threshold."
    limited.calls("2025-04", ("bert", 1))
    said(limited)
    limited.calls("2025-04", ("bert", 100))
    said(limited)

    assert told(limited) == [
        ("bert", 80, 800, 1000),
        ("carl", 100, 5_000, 1000),
        ("anna", 50, 500, 1000),
        ("bert", 100, 1000, 1000),
    ]


def test_nothing_is_told_twice_when_a_limit_is_raised_or_rows_vanish_and_a_new_month_begins_anew(
    small_limited: World, clock: time_machine.Traveller
) -> None:
    world = small_limited
    world.accounts("anna")
    limit(world, "anna", 1000)
    world.calls("2025-04", ("anna", 850))
    said(world)
    for cents in (10_000, 1_700, 1000):
        limit(world, "anna", cents)
        said(world)
    world.source.execute("DELETE FROM usage_counters")
    said(world)
    world.calls("2025-04", ("anna", 900))
    said(world)
    assert told(world) == [("anna", 80, 850, 1000)]
    clock.move_to(datetime(2025, 5, 20, tzinfo=UTC))
    said(world)
    world.calls("2025-05", ("anna", 500))
    said(world)

    assert told(world)[1:] == [("anna", 50, 500, 1000)]


def test_a_limit_that_was_raised_is_told_of_beyond_what_was_told_and_not_again_when_it_is_lowered(
    small_limited: World,
) -> None:
    world = small_limited
    world.accounts("anna")
    limit(world, "anna", 50)
    world.calls("2025-04", ("anna", 50))
    said(world)
    for limit_cents, cents in ((100, 0), (100, 30), (50, 0), (100, 1), (100, 19), (50, 0)):
        limit(world, "anna", limit_cents)
        world.calls("2025-04", ("anna", cents))
        said(world)

    assert told(world) == [("anna", 100, 50, 50), ("anna", 80, 80, 100), ("anna", 100, 100, 100)]


def test_the_event_of_the_whole_limit_and_the_answer_that_blocks_agree(small_limited: World) -> None:
    world = small_limited
    world.accounts("anna")
    limit(world, "anna", 3)
    for _ in range(4):
        world.calls("2025-04", ("anna", 1))
        said(world)
        found = open_usage_source(world.ledger()._url).spending("anna", Month(2025, 4))
        blocked = found.month.cost_cents >= (found.limit_cents or 0)
        assert blocked == (100 in [percent for _, percent, _, _ in told(world)])

    assert [percent for _, percent, _, _ in told(world)] == [50, 100]


def test_a_limit_that_is_none_fails_the_tick_by_name_after_the_others_were_told(
    small_limited: World,
) -> None:
    world = small_limited
    world.accounts("anna", "bert")
    limit(world, "anna", "'a lot'")
    limit(world, "bert", 100)
    world.calls("2025-04", ("anna", 100), ("bert", 100))

    with pytest.raises(UsageError, match=re.escape("spend_limit_cents is 'a lot' for user anna")):
        world.tick(SENSOR)

    assert told(world) == [("bert", 100, 100, 100)]


def test_without_limits_nothing_is_read_but_that_there_are_none(small_world: World, tmp_path: Path) -> None:
    none = "No user has a spend limit (billing_accounts.spend_limit_cents)."
    small_world.source.execute("DROP TABLE usage_counters")
    assert said(small_world) == none
    small_world.source.execute("ALTER TABLE billing_accounts ADD COLUMN spend_limit_cents bigint")
    small_world.accounts("anna")
    assert said(small_world) == none
    away = UsageResource(database_url=f"sqlite:///{tmp_path}/away.db", store_path=str(tmp_path))
    assert "checked again at the next tick" in str(small_world.tick(SENSOR, usage=away).skip_message)


def test_one_process_at_a_time_looks_at_limits(small_limited: World) -> None:
    world = small_limited
    world.accounts("anna")
    limit(world, "anna", 100)
    with world.ledger() as ledger, ledger.exclusive("spend_alerts", wait_seconds=0):
        assert said(world) == "Another process is looking at spend limits."


def test_thresholds_are_a_setting(small_limited: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = small_limited
    monkeypatch.setenv("SPEND_ALERT_PERCENTS", "90, 120")
    world.accounts("anna")
    limit(world, "anna", 100)
    for cents in (89, 20, 11):
        world.calls("2025-04", ("anna", cents))
        said(world)

    assert [percent for _, percent, _, _ in told(world)] == [90, 120]


@pytest.mark.parametrize("text", ["0", "50,", "80,50", "50,50", "x", "1001", "1.5", "-1"])
def test_thresholds_that_are_none_are_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="SPEND_ALERT_PERCENTS"):
        _ = NotificationSettings({"SPEND_ALERT_PERCENTS": text}).spend_alert_percents
