"""`month_in_review`: people are told once of drafts that wait for approval, and nothing tries them again."""

import dagster as dg
import pytest

from spell_billing.core.month import Month
from spell_billing.invoicing.review import approve
from spell_billing.ledger.reviews import read_review
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.runs import RunResult
from spell_billing_tests.sensors.world import World

SENSOR = "month_in_review"
MARCH = Month(2025, 3)
OTHERS = ("billing_checks_failed", "billing_run_failed", "users_not_invoiced", "month_unbilled")


@pytest.fixture
def instance(instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
    return instance_on_disk


def in_review(world: World) -> dg.ExecuteInProcessResult:
    """Bill February, lose its rows, and have March drafted."""
    world.accounts("user-0001", "user-0002")
    world.calls("2025-02", ("user-0001", 700), ("user-0002", 300))
    world.bill("2025-02")
    world.source.execute("DELETE FROM usage_counters")
    world.calls("2025-03", ("user-0001", 700), ("user-0002", 300))
    return world.bill("2025-03")


def test_one_alert_with_the_numbers_for_the_same_drafts_however_often_they_are_made(world: World) -> None:
    for sensor in (SENSOR, *OTHERS):
        world.tick(sensor)
    result = in_review(world)
    world.tick(SENSOR)
    world.bill("2025-03")
    for sensor in (SENSOR, *OTHERS):
        world.tick(sensor)

    (text,) = world.web.texts
    title, *lines = text.splitlines()
    assert title == "2025-03 is in review: nothing was sent"
    assert "2 of 2 users have lost rows (100%); $10.00 of $10.00 is gone (100%)" in lines[0]
    assert 'spell-billing approve --month 2025-03 --reason "..."' in text
    # Nothing of it counts as done: the run succeeded, and the invoices were not materialized.
    assert result.success
    made = {event.asset_key for event in result.get_asset_materialization_events()}
    assert made == {dg.AssetKey(name) for name in ("raw_usage", "user_usage", "invoice_drafts")}
    (check,) = (
        each for each in result.get_asset_check_evaluations() if each.check_name == "month_is_plausible"
    )
    assert (check.passed, check.blocking) == (False, False)
    with world.ledger() as ledger:
        assert [run.result for run in ledger.runs(MARCH)] == [RunResult.IN_REVIEW] * 2
        assert ledger.month(MARCH).billing_started_at is None  # type: ignore[union-attr]


def test_subscriptions_that_vanished_are_reviewed(small_world: World) -> None:
    world = small_world
    world.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 100}])
    world.source.execute(
        "CREATE TABLE plan_subscriptions (user_id text, plan_id text, starts_at text, ends_at text)",
        "INSERT INTO plan_subscriptions VALUES ('anna', 'pro', '2025-01-15', NULL)",
        "INSERT INTO plan_subscriptions VALUES ('bert', 'pro', '2025-01-15', '2025-03-10')",
    )
    world.accounts("anna", "bert")
    for month in ("2025-02", "2025-03"):
        world.calls(month, ("anna", 700), ("bert", 300))
    world.bill("2025-02")
    world.source.execute("DELETE FROM plan_subscriptions")
    world.bill("2025-03")

    with world.ledger() as ledger, ledger.reading() as connection:
        review = read_review(connection, MARCH)
    assert review is not None
    assert [each["code"] for each in review.findings] == ["subscriptions_gone"]
    assert "The subscriptions of 2 of 2 users vanished" in review.findings[0]["text"]
    assert ledger.month(MARCH).billing_started_at is None  # type: ignore[union-attr]


def test_one_subscription_that_vanished_is_reviewed_and_none_that_ended_or_left_with_its_account(
    small_world: World,
) -> None:
    world = small_world
    world.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 100}])
    users = ("anna", "bert", "carl", "dora", "emil")
    rows = ", ".join(f"('{user}', 'pro', '2025-01-15', NULL)" for user in users)
    world.source.execute(
        "CREATE TABLE plan_subscriptions (user_id text, plan_id text, starts_at text, ends_at text)",
        f"INSERT INTO plan_subscriptions VALUES {rows}",
    )
    world.accounts(*users)
    for month in ("2025-02", "2025-03"):
        world.calls(month, *((user, 700) for user in users))
    world.bill("2025-02")
    world.source.execute(
        "DELETE FROM plan_subscriptions WHERE user_id = 'anna'",
        "UPDATE plan_subscriptions SET ends_at = '2025-02-27' WHERE user_id = 'bert'",
        *(
            f"DELETE FROM {table} WHERE user_id = 'carl'"
            for table in ("plan_subscriptions", "billing_accounts")
        ),
    )
    world.bill("2025-03")

    with world.ledger() as ledger, ledger.reading() as connection:
        review = read_review(connection, MARCH)
    assert review is not None
    (found,) = review.findings
    assert found["text"].startswith(
        "The subscriptions of 1 of 5 users vanished from plan_subscriptions: anna. "
    )


def test_other_drafts_are_another_review_and_another_alert(world: World) -> None:
    in_review(world)
    world.tick(SENSOR)
    world.calls("2025-03", ("user-0001", 1))
    world.bill("2025-03")
    world.tick(SENSOR)

    assert len(world.web.texts) == 2


def test_a_month_in_review_is_not_requested_until_it_is_approved(world: World) -> None:
    in_review(world)

    def requested() -> set[str | None]:
        found = world.schedule_tick()
        return {request.partition_key for request in found.run_requests or ()}

    assert requested() == set()
    assert not world.tick("retry_leftovers").run_requests
    with world.ledger() as ledger:
        with ledger.reading() as connection:
            review = read_review(connection, MARCH)
        assert review is not None
        approve(ledger, MARCH, Actor("finance"), "known", review.drafts_hash)
    assert requested() == {"2025-03-01"}

    world.bill("2025-03")

    assert requested() == set()
    with world.ledger() as ledger:
        assert ledger.month(MARCH).billed_at is not None  # type: ignore[union-attr]
