"""The feed: each change of a bill is an event, in order, and none is skipped whatever commits when."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.errors import IntegrityError
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.credits import settle_credit
from spell_billing.ledger.feed import LedgerBusyError, final_id, read_feed
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import audit, decisions
from spell_billing.ledger.settling import mark_overdue
from spell_billing.settings.databases import parse_database_url
from spell_billing_tests.events_out.world import OCTOBER, Office

NOW = datetime(2026, 11, 1, 1, tzinfo=UTC)


@pytest.mark.both_databases
def test_every_change_of_a_bill_is_an_event_in_order_and_has_an_id_of_its_own(office: Office) -> None:
    office.invoice("anna", "bert", "cleo")
    for state in (State.PAYMENT_FAILED, State.PAID, State.PAYMENT_FAILED, State.PAID):
        office.move("anna", state)
    office.move("bert", State.VOID, action="voided", reason=Reason.VOIDED)
    office.move("cleo", State.PARKED, action="parked", reason=Reason.VOIDED_AT_STRIPE)
    with office.session() as session:
        session.finish_billing()

    events = office.feed()

    assert [(event.user_id, event.type.value, event.state) for event in events] == [
        ("anna", "invoice.finalized", "finalized"),
        ("bert", "invoice.finalized", "finalized"),
        ("cleo", "invoice.finalized", "finalized"),
        ("anna", "invoice.payment_failed", "payment_failed"),
        ("anna", "invoice.paid", "paid"),
        ("anna", "invoice.payment_failed", "payment_failed"),
        ("anna", "invoice.paid", "paid"),
        ("bert", "invoice.voided", "void"),
        ("cleo", "invoice.voided", "parked"),
        (None, "month.billed", None),
    ]
    assert len({event.id for event in events}) == len(events)
    assert office.feed() == events
    first = events[0]
    assert (first.month, first.generation, first.stripe_invoice_id) == ("2026-10", 1, "in_anna_2026-10")
    assert (first.total_cents, first.currency, first.created_at) == (1234, "usd", NOW)


@pytest.mark.both_databases
def test_what_changes_no_state_or_parks_a_standing_invoice_is_no_event(office: Office) -> None:
    office.invoice("anna", "bert")
    known = len(office.feed())

    office.move("anna", State.FINALIZED, action="metadata_restored")
    office.move("bert", State.PARKED, action="parked", reason=Reason.TWO_INVOICES, detail="in_1 and in_2")

    assert len(office.feed()) == known


@pytest.mark.both_databases
def test_a_credit_that_is_given_back_by_hand_is_told_with_its_amount(office: Office) -> None:
    with office.session(OCTOBER.previous()) as session:
        refunded = draft_invoice(
            session.month, "anna", calls=1, usage_cents=Decimal(-500), account=Account("cus_anna")
        )
        session.replace_drafts([refunded], usage_version="v0001", calls=1, usage_cents=refunded.usage_cents)
    with office.ledger.writing() as connection:
        settle_credit(
            connection, OCTOBER, "anna", "usd", reason="by transfer", actor=Actor("finance"), now=NOW
        )

    (event,) = office.feed()

    assert (event.type, event.user_id, event.total_cents, event.currency) == (
        "invoice.credited",
        "anna",
        500,
        "usd",
    )

    with office.ledger.writing() as connection:
        connection.execute(decisions.update().values(content_hash="usd"))
    with pytest.raises(IntegrityError, match="What was settled of user anna's credit"):
        office.feed()


@pytest.mark.both_databases
def test_an_unpaid_invoice_is_overdue_once_and_a_paid_or_old_one_never(office: Office) -> None:
    after = timedelta(days=14)
    office.invoice("ancient", month=OCTOBER.plus(-3))
    office.later(days=60)
    office.invoice("anna", "bert", "cleo", "dora")
    office.move("bert", State.PAID)
    office.move("dora", State.UNCOLLECTIBLE)

    def mark() -> int:
        with office.ledger.writing() as connection:
            return mark_overdue(connection, after, office.now)

    assert mark() == 1
    office.later(days=13)
    assert mark() == 0
    office.later(days=2)
    assert (mark(), mark()) == (2, 0)
    overdue = [event for event in office.feed() if event.type == "user.overdue"]
    assert [(event.user_id, event.state) for event in overdue] == [
        ("dora", "uncollectible"),
        ("anna", "finalized"),
        ("cleo", "finalized"),
    ]
    assert {event.total_cents for event in overdue} == {1234}


@pytest.mark.both_databases
def test_an_invoice_that_is_paid_by_transfer_is_overdue_only_after_its_due_date(office: Office) -> None:
    after = timedelta(days=14)
    office.invoice("anna", "bert", collection="send", net_days="60", footer='Says "net_days":1, and more')
    office.invoice("cleo", month=OCTOBER.plus(-1))
    office.move("bert", State.UNCOLLECTIBLE)

    def mark() -> list[tuple[str | None, str]]:
        with office.ledger.writing() as connection:
            mark_overdue(connection, after, office.now)
        return [(each.user_id, each.type) for each in office.feed() if each.type == "user.overdue"]

    assert mark() == [("bert", "user.overdue")]
    office.later(days=15)
    assert mark()[1:] == [("cleo", "user.overdue")]
    office.later(days=58)
    assert mark()[2:] == []
    office.later(days=2)
    assert (mark()[2:], mark()[3:]) == ([("anna", "user.overdue")], [])


@pytest.mark.both_databases
def test_becoming_overdue_is_no_step_of_a_run(office: Office) -> None:
    office.invoice("anna")
    before = office.ledger.last_action(OCTOBER)
    office.later(days=20)

    office.round()

    assert office.types()[-1] == ("anna", "user.overdue")
    assert office.ledger.last_action(OCTOBER) == before


def test_a_change_that_commits_after_a_younger_one_is_not_skipped(postgres_url: str) -> None:
    with Ledger(parse_database_url(postgres_url, setting="DATABASE_URL")) as ledger:
        office, cursor, read = Office(ledger), 0, []

        def poll() -> None:
            nonlocal cursor
            with ledger.reading() as connection:
                until = final_id(connection, wait_seconds=0.05)
                read.extend(read_feed(connection, after=cursor, until=until, limit=100))
            cursor = until

        with ledger._engine.connect() as slow:
            slow.execute(audit.insert().values(_billed(OCTOBER.next())))
            office.invoice("anna")
            with pytest.raises(LedgerBusyError):
                poll()
            office.move("anna", State.PAID)
            slow.commit()
        poll()
        poll()

        assert [event.type.value for _, event in read] == [
            "month.billed",
            "invoice.finalized",
            "invoice.paid",
        ]
        assert [place for place, _ in read] == sorted({place for place, _ in read})


def test_transactions_that_only_read_or_write_elsewhere_hold_nobody_up(postgres_url: str) -> None:
    with Ledger(parse_database_url(postgres_url, setting="DATABASE_URL")) as ledger:
        office = Office(ledger)
        office.invoice("anna")
        with ledger._engine.connect() as other:
            other.execute(sa.select(audit))
            other.exec_driver_sql("UPDATE ledger_months SET users = 2")

            assert office.types() == [("anna", "invoice.finalized")]


def _billed(month: object) -> dict[str, object]:
    return {"at": NOW, "actor": "slow", "run_id": "", "month": str(month), "action": "month_billed"}
