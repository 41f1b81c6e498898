"""Reading the ledger: in pages, while others write, and without a lock."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from spell_billing.core.drafting import Account, Credit, Draft, draft_invoice
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.browsing import bills_of, has_bill
from spell_billing.ledger.fees import fees_held
from spell_billing.ledger.history import read_billed, read_history
from spell_billing.ledger.ledger import PAGE_ROWS, Ledger
from spell_billing.ledger.rows import Actor, Change
from spell_billing.settings.databases import DatabaseUrl

OCTOBER = Month(2026, 10)


def test_bills_are_streamed_whole_and_in_order_over_pages(
    ledger: Ledger, drafted: Callable[..., None]
) -> None:
    users = [f"user-{number:04}" for number in range(2 * PAGE_ROWS + 1)]
    drafted(users)

    assert [bill.user_id for bill in ledger.bills(OCTOBER)] == users
    # Also when the states are given as something that can be walked through only once.
    assert sum(1 for _ in ledger.bills(OCTOBER, iter([State.PLANNED, State.FAILED]))) == len(users)
    assert list(ledger.bills(OCTOBER, [State.FAILED])) == []
    assert list(ledger.bills(OCTOBER, [])) == []


def test_a_month_never_drafted_is_none_and_empty(ledger: Ledger) -> None:
    assert ledger.month(OCTOBER) is None
    assert ledger.months() == []
    assert list(ledger.bills(OCTOBER)) == []
    assert ledger.bills_of_user(OCTOBER, "user-0001") == []
    assert ledger.audit_trail(OCTOBER) == []
    assert ledger.drafted_usage(OCTOBER) == (0, 0, Decimal(0))


def test_a_reader_sees_the_old_drafts_while_new_ones_are_being_written(
    url: DatabaseUrl, ledger: Ledger, drafted: Callable[..., None], make_draft: Callable[..., Draft]
) -> None:
    drafted(["user-0001"])
    seen: list[list[str]] = []

    def slowly() -> Iterator[Draft]:
        # More than one batch: the first is written, not yet committed, when the reader looks.
        for number in range(5_001):
            yield make_draft(f"user-{number + 2:04}")
        seen.append([bill.user_id for bill in ledger.bills(OCTOBER)])
        with Ledger(url) as other:
            seen.append([bill.user_id for bill in other.bills(OCTOBER)])

    with ledger.session(OCTOBER, Actor("drafter"), wait_seconds=0) as session:
        session.replace_drafts(slowly(), usage_version="v2", calls=0, usage_cents=Decimal(0))

    assert seen == [["user-0001"], ["user-0001"]]
    assert sum(1 for _ in ledger.bills(OCTOBER)) == 5_001


def test_an_open_reader_does_not_hold_up_the_writer(ledger: Ledger, drafted: Callable[..., None]) -> None:
    drafted(["user-0001"])
    reader = ledger._reader.connect()
    with reader:
        count = sa.text("SELECT count(*) FROM ledger_invoices")
        assert reader.scalar(count) == 1
        drafted(["user-0001", "user-0002"])
        assert reader.scalar(count) in {1, 2}
    assert [bill.user_id for bill in ledger.bills(OCTOBER)] == ["user-0001", "user-0002"]


def plans_of(ledger: Ledger, read: Callable[[sa.Connection], object]) -> list[str]:
    """Give the database's plan for each reading of bills."""
    plans: list[str] = []

    def explain(connection: sa.Connection, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM ledger_invoices" in statement and not statement.startswith("EXPLAIN"):
            how = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
            cursor.execute(f"{how} {statement}", parameters)
            plans.append("\n".join(str(row) for row in cursor.fetchall()))

    with ledger.reading() as connection:
        if connection.dialect.name == "postgresql":
            # So small a table would be read whole.
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        sa.event.listen(connection, "before_cursor_execute", explain)
        read(connection)
    return plans


def test_drafting_finds_what_earlier_months_left_by_an_index_however_many_bills_there_are(
    ledger: Ledger, drafted: Callable[..., None]
) -> None:
    drafted(["user-0001"])
    plans = plans_of(ledger, lambda connection: read_history(connection, OCTOBER.next(), []))

    assert len(plans) == 7
    assert all(re.search("ledger_invoices_(left_something|by_state)", plan) for plan in plans), plans


@pytest.mark.parametrize(
    "read",
    [
        lambda connection: bills_of(connection, "user-0001", limit=20),
        lambda connection: bills_of(connection, "user-0001", before=("2026-10", 1), limit=20),
        lambda connection: has_bill(connection, "user-0001"),
        lambda connection: read_billed(connection, OCTOBER.next(), [("user-0001", "2026-10")]),
        lambda connection: fees_held(connection, [("user-0001", "2026-10")], OCTOBER.next()),
    ],
    ids=["bills", "older_bills", "any_bill", "late_usage", "fees"],
)
def test_a_user_s_bills_of_all_months_are_found_by_the_index_of_months_and_users(
    ledger: Ledger,
    url: DatabaseUrl,
    drafted: Callable[..., None],
    read: Callable[[sa.Connection], object],
) -> None:
    drafted(f"user-{number:04}" for number in range(1_000))
    *_, plan = plans_of(ledger, read)

    by_user = (
        r"ledger_invoices_1 \(month=\? AND user_id=\?"
        if url.backend == "sqlite"
        else r"ledger_invoices_one_per_bill.*\n.*Index Cond: .*user_id"
    )
    assert re.search(by_user, plan), plan


def test_a_month_s_own_bills_and_void_ones_are_no_credit_of_earlier_months(ledger: Ledger) -> None:
    september, november = OCTOBER.previous(), OCTOBER.next()

    def draft(month: Month, usage: str, credit: Credit | None = None) -> None:
        one = draft_invoice(
            month,
            "user-0001",
            calls=1,
            usage_cents=Decimal(usage),
            account=Account("cus_1"),
            credit=credit,
        )
        with ledger.session(month, Actor("drafter"), wait_seconds=0) as session:
            session.replace_drafts([one], usage_version="v1", calls=1, usage_cents=Decimal(usage))

    draft(september, "-100")
    draft(OCTOBER, "60", Credit(100, "usd"))

    # Drafting October again finds the credit whole, as if October had taken nothing of it yet.
    assert ledger.history(OCTOBER, []).credits == {"user-0001": [Credit(100, "usd")]}
    assert ledger.history(november, []).credits == {"user-0001": [Credit(40, "usd")]}

    with ledger.session(september, Actor("drafter"), wait_seconds=0) as session:
        (carried,) = session.page(None, after_id=0, limit=10)
        session.apply([Change(carried, replace(carried, state=State.VOID), "voided")])
    assert ledger.history(OCTOBER, []).credits == {}
