"""`users_not_invoiced`: people hear of each user who waits for one of them, once, by month and reason."""

from decimal import Decimal

import dagster as dg
import pytest
import sqlalchemy as sa

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.errors import AlertError
from spell_billing.core.month import Month
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import outbox
from spell_billing_tests.alerting.receivers import WebReceiver
from spell_billing_tests.sensors.world import World

SENSOR = "users_not_invoiced"
MARCH = Month(2025, 3)


def reported(world: World) -> int:
    with world.ledger() as ledger, ledger.reading() as connection:
        alerted = sa.select(sa.func.count()).where(
            outbox.c.user_id.is_not(None), outbox.c.sent_at.is_not(None)
        )
        return connection.scalar(alerted) or 0


def waiting(world: World) -> int:
    """Count the alerts that a channel has not had yet."""
    with world.ledger() as ledger, ledger.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).where(outbox.c.sent_at.is_(None))) or 0


def test_one_alert_per_month_and_reason_with_counts_amounts_and_the_first_names(world: World) -> None:
    world.accounts("user-0000")
    world.calls("2025-03", *[(f"user-{number:04}", 100) for number in range(8)])
    world.source.accounts([{"user_id": "user-0007", "stripe_customer_id": None}])
    world.bill_approved("2025-03")

    for _ in range(3):
        world.tick(SENSOR)

    assert [text.splitlines() for text in sorted(world.web.texts)] == [
        [
            "2025-03: 1 user without an invoice, $1.00 (no_stripe_customer)",
            (
                "The billing account has no stripe_customer_id. Create the customer at Stripe, store its id, "
                "then bill the month again."
            ),
            "Who: user-0007",
            "Next: spell-billing invoices --month 2025-03, then spell-billing bill --month 2025-03",
        ],
        [
            "2025-03: 6 users without an invoice, $6.00 (no_billing_account)",
            "The user has no row in billing_accounts. Add one, then bill the month again.",
            "Who: user-0001, user-0002, user-0003, user-0004, user-0005, ...",
            "Next: spell-billing invoices --month 2025-03, then spell-billing bill --month 2025-03",
        ],
    ]


@pytest.mark.both_databases
def test_a_run_that_leaves_the_same_users_tells_nobody_again_and_a_mended_one_is_forgotten(
    world: World,
) -> None:
    world.calls("2025-03", ("user-0001", 100), ("user-0002", 100))
    world.bill_approved("2025-03")
    world.tick(SENSOR)
    world.bill("2025-03")
    world.tick(SENSOR)
    assert len(world.web.requests) == 1
    assert reported(world) == 2

    world.accounts("user-0001")
    world.bill("2025-03")
    world.tick(SENSOR)
    assert len(world.web.requests) == 1
    assert reported(world) == 1


def test_a_user_who_fails_for_another_reason_is_told_and_so_is_a_new_one_of_the_old_reason(
    world: World,
) -> None:
    world.calls("2025-03", ("user-0001", 100))
    world.bill("2025-03")
    world.tick(SENSOR)
    world.source.accounts([{"user_id": "user-0001", "stripe_customer_id": "cus_unknown"}])
    world.bill("2025-03")
    world.tick(SENSOR)

    assert [title.rpartition("(")[2] for title in world.web.titles] == [
        "no_billing_account)",
        "unknown_customer)",
    ]

    world.source.execute("DELETE FROM billing_accounts")
    world.bill("2025-03")
    world.tick(SENSOR)
    assert world.web.titles[2:] == ["2025-03: 1 user without an invoice, $1.00 (no_billing_account)"]


@pytest.mark.both_databases
def test_a_month_that_a_process_holds_is_left_alone_until_it_lets_go(world: World) -> None:
    world.calls("2025-03", ("user-0001", 100))
    world.bill("2025-03")
    with world.ledger() as ledger, ledger.session(MARCH, Actor("someone"), wait_seconds=0):
        world.tick(SENSOR)
        assert world.web.requests == []

    world.tick(SENSOR)

    assert len(world.web.requests) == 1


def test_a_month_whose_run_is_under_way_is_left_alone(small_world: World) -> None:
    small_world.calls("2025-03", ("user-0001", 100))
    small_world.bill("2025-03")
    run = small_world.instance.create_run_for_job(
        small_world.defs().resolve_job_def("monthly_billing"),
        tags={"dagster/partition": "2025-03-01"},
        status=dg.DagsterRunStatus.STARTED,
    )
    small_world.tick(SENSOR)
    assert small_world.web.requests == []

    small_world.instance.report_run_canceled(run)
    small_world.tick(SENSOR)

    assert len(small_world.web.requests) == 1


@pytest.mark.both_databases
def test_what_did_not_go_out_is_told_by_the_next_tick_and_not_twice_elsewhere(world: World) -> None:
    world.calls("2025-03", ("user-0001", 100))
    world.bill("2025-03")
    with WebReceiver(status=503).running() as other:
        world.channels = [world.web.url(), other.url()]
        for _ in range(2):
            with pytest.raises(AlertError):
                world.tick(SENSOR)
        assert waiting(world) == 1

        other.status = 200
        world.tick(SENSOR)
        world.tick(SENSOR)

    told = "2025-03: 1 user without an invoice, $1.00 (no_billing_account)"
    assert other.titles == [told]
    assert world.web.titles.count(told) == 1
    assert (reported(world), waiting(world)) == (1, 0)


def test_drafts_that_nobody_started_to_bill_are_not_told(small_world: World) -> None:
    small_world.calls("2025-03", ("user-0001", 100))
    result = small_world.run("2025-03", assets=["raw_usage", "user_usage", "invoice_drafts"])
    assert result.success

    small_world.tick(SENSOR)

    assert small_world.web.requests == []


@pytest.mark.both_databases
def test_many_users_are_told_in_one_alert_and_in_no_more_statements_than_a_few(world: World) -> None:
    def statements(month: Month, users: int) -> int:
        """Give the number of statements that two ticks need for a month in which so many users wait."""
        drafts = (
            draft_invoice(month, f"user-{number}", calls=1, usage_cents=Decimal(100), account=Account(None))
            for number in range(users)
        )
        with world.ledger() as ledger, ledger.session(month, Actor("test")) as session:
            session.replace_drafts(drafts, usage_version="v1", calls=users, usage_cents=Decimal(100 * users))
            session.start_billing()
        sent: list[object] = []

        def count(*about: object) -> None:
            sent.append(about)

        sa.event.listen(sa.Engine, "before_cursor_execute", count)
        try:
            world.tick(SENSOR)
            world.tick(SENSOR)
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", count)
        return len(sent)

    few = statements(MARCH, 2)
    assert statements(Month(2025, 2), 3_000) <= 2 * few
    assert world.web.titles == [
        "2025-03: 2 users without an invoice, $2.00 (no_stripe_customer)",
        "2025-02: 3,000 users without an invoice, $3,000.00 (no_stripe_customer)",
    ]
    assert reported(world) == 3_002
