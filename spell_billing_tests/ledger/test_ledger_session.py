"""Writing a month: all or nothing, from the state it was in, each change with its audit entry."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from spell_billing.core.drafting import Account, Credit, Draft, draft_invoice
from spell_billing.core.errors import LedgerError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor, Bill, Change, new_bill_values
from spell_billing.ledger.session import MonthSession
from spell_billing_tests.core.late_usage import late_of

OCTOBER, NOVEMBER = Month(2026, 10), Month(2026, 11)
NOW = datetime(2026, 11, 1, 3, tzinfo=UTC)

MakeDraft = Callable[..., Draft]


@pytest.fixture
def session(ledger: Ledger) -> Iterator[MonthSession]:
    with ledger.session(OCTOBER, Actor("biller", "run-1"), wait_seconds=0) as opened:
        yield opened


def write(session: MonthSession, *drafts: Draft, version: str = "v1", usage: str = "1234") -> list[Bill]:
    session.replace_drafts(drafts, usage_version=version, calls=3, usage_cents=Decimal(usage))
    return session.page(None, after_id=0, limit=100)


def entries(ledger: Ledger, user_id: str | None = None) -> list[tuple[Any, ...]]:
    columns = ("actor", "run_id", "user_id", "generation", "action", "from_state", "to_state")
    return [tuple(row[name] for name in columns) for row in ledger.audit_trail(OCTOBER, user_id)]


def test_drafts_are_written_whole_with_the_month_and_the_audit(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    first, second = make_draft("user-0001", "1233.5"), make_draft("user-0002", "5", account=None)
    bills = write(session, first, second)

    assert [(bill.user_id, bill.state, bill.reason, bill.total_cents) for bill in bills] == [
        ("user-0001", State.PLANNED, None, 1234),
        ("user-0002", State.FAILED, Reason.NO_BILLING_ACCOUNT, 5),
    ]
    assert bills[0].parsed_lines == first.lines
    assert (bills[0].stripe_customer_id, bills[0].description) == ("cus_1", first.description)
    assert (bills[0].generation, bills[0].request_attempt, bills[0].run_id) == (1, 1, "run-1")
    assert bills[1].why is not None
    assert "billing_accounts" in bills[1].why
    record = ledger.month(OCTOBER)
    assert record is not None
    assert (record.usage_version, record.users, record.calls, record.usage_cents) == (
        "v1",
        2,
        3,
        Decimal(1234),
    )
    assert (record.billing_started_at, record.billed_at) == (None, None)
    drafted = ("biller", "run-1", None, None, "drafted", None, None)
    assert entries(ledger) == entries(ledger, "user-0002") == [drafted]


def test_drafting_again_replaces_all_of_the_month_and_nothing_of_another(
    ledger: Ledger, make_draft: MakeDraft
) -> None:
    with ledger.session(NOVEMBER, Actor("biller"), wait_seconds=0) as november:
        write(november, make_draft("user-0001", month=NOVEMBER))
    with ledger.session(OCTOBER, Actor("biller"), wait_seconds=0) as october:
        write(october, make_draft("user-0001"), make_draft("user-0002"))
        write(october, make_draft("user-0001", "99"), version="v2")

    assert [(bill.user_id, bill.total_cents) for bill in ledger.bills(OCTOBER)] == [("user-0001", 99)]
    assert [bill.total_cents for bill in ledger.bills(NOVEMBER)] == [1234]
    assert [(each.month, each.usage_version) for each in ledger.months()] == [
        ("2026-10", "v2"),
        ("2026-11", "v1"),
    ]
    assert len(ledger.audit_trail(OCTOBER, "user-0001")) == 2


def test_a_user_is_billed_once_in_a_month_and_generation(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    write(session, make_draft("user-0001"))
    values = new_bill_values(OCTOBER, make_draft("user-0001"), generation=1, run_id="", now=NOW)

    with pytest.raises(sa.exc.IntegrityError):
        session.insert(values, action="adopted")
    with pytest.raises(sa.exc.IntegrityError):
        write(session, make_draft("user-0001"), make_draft("user-0001"))
    assert len(list(ledger.bills(OCTOBER))) == 1
    assert [entry[4] for entry in entries(ledger)] == ["drafted"]


def test_a_draft_written_among_many_is_the_bill_it_would_be_alone(
    session: MonthSession, make_draft: MakeDraft
) -> None:
    odd = draft_invoice(
        OCTOBER,
        'tab\t, line\nand "\\N"',
        calls=7,
        usage_cents=Decimal("1234.5670"),
        account=Account("cus_\\N", "usd", "plan\t1", "Plan \\", 200),
        late=[late_of(Month(2026, 8), 2, Decimal("0.5"), Decimal(10))],
        credit=Credit(31, "usd"),
    )
    drafts = [make_draft("user-0001"), odd]
    bills = {bill.user_id: bill for bill in write(session, *drafts)}

    for draft in drafts:
        bill = bills[draft.user_id]
        values = new_bill_values(OCTOBER, draft, generation=1, run_id="run-1", now=bill.created_at)
        assert bill == Bill(id=bill.id, **values)


def test_drafts_that_break_off_leave_the_earlier_ones(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    write(session, make_draft("user-0001"))

    def broken() -> Iterator[Draft]:
        yield make_draft("user-0002")
        raise OSError("the frozen usage cannot be read")

    with pytest.raises(OSError, match="frozen"):
        session.replace_drafts(broken(), usage_version="v2", calls=0, usage_cents=Decimal(0))

    assert [bill.user_id for bill in ledger.bills(OCTOBER)] == ["user-0001"]
    record = ledger.month(OCTOBER)
    assert record is not None
    assert record.usage_version == "v1"
    assert len(entries(ledger)) == 1


def test_once_billing_has_started_the_drafts_are_frozen(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    write(session, make_draft("user-0001"))
    session.start_billing()
    started = session.record()
    session.start_billing()

    assert started is not None
    assert started.billing_started_at is not None
    assert session.record() == started
    with pytest.raises(LedgerError, match=r"Billing of 2026-10 started at .* frozen"):
        write(session, make_draft("user-0001", "1"), version="v2")
    assert [bill.total_cents for bill in ledger.bills(OCTOBER)] == [1234]
    session.finish_billing()
    assert [entry[4] for entry in entries(ledger)] == ["drafted", "billing_started", "month_billed"]


def test_a_change_returns_and_keeps_the_bill_as_it_is_now(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    (bill,) = write(session, make_draft())
    after = replace(
        bill, state=State.DRAFTED, stripe_invoice_id="in_1", stripe_request_id="req_1", request_attempt=2
    )
    (returned,) = session.apply([Change(bill, after, "draft_created", "because")])

    assert returned == replace(after, updated_at=returned.updated_at, run_id="run-1")
    assert returned.updated_at >= bill.updated_at
    assert list(ledger.bills(OCTOBER)) == [returned]
    (entry,) = [row for row in ledger.audit_trail(OCTOBER) if row["action"] == "draft_created"]
    expected = {
        "actor": "biller",
        "run_id": "run-1",
        "month": "2026-10",
        "user_id": "user-0001",
        "generation": 1,
        "from_state": "planned",
        "to_state": "drafted",
        "stripe_invoice_id": "in_1",
        "stripe_request_id": "req_1",
        "detail": "because",
        "at": returned.updated_at,
    }
    assert {name: entry[name] for name in expected} == expected


def test_many_changes_are_written_all_or_not_at_all(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    bills = write(session, *(make_draft(f"user-{number:04}") for number in range(50)))
    changes = [
        Change(bill, replace(bill, state=State.DRAFTED, stripe_invoice_id=f"in_{bill.id}"), "draft_created")
        for bill in bills
    ]
    session.apply(changes[30:31])

    with pytest.raises(LedgerError, match="2026-10 was changed by someone else"):
        session.apply(changes)

    assert [bill.state for bill in ledger.bills(OCTOBER)].count(State.DRAFTED) == 1
    assert len(entries(ledger)) == 2
    returned = session.apply([change for change in changes if change is not changes[30]])
    assert [bill.stripe_invoice_id for bill in returned] == [
        f"in_{bill.id}" for bill in bills if bill is not bills[30]
    ]
    assert {bill.state for bill in ledger.bills(OCTOBER)} == {State.DRAFTED}
    assert len(entries(ledger)) == 51


def test_no_changes_write_nothing(ledger: Ledger, session: MonthSession) -> None:
    assert session.apply([]) == []
    assert entries(ledger) == []


def test_a_change_from_an_outdated_state_is_refused(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    (bill,) = write(session, make_draft())
    (drafted,) = session.apply([Change(bill, replace(bill, state=State.DRAFTED), "draft_created")])

    with pytest.raises(LedgerError, match="someone else"):
        session.apply([Change(bill, replace(bill, state=State.FAILED), "failed")])

    assert list(ledger.bills(OCTOBER)) == [drafted]


def test_a_voided_bill_is_followed_by_its_next_generation(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    (bill,) = write(session, make_draft("user-0001"))
    (void,) = session.apply([Change(bill, replace(bill, state=State.VOID, reason=Reason.VOIDED), "voided")])
    assert session.bills_to_redraft() == [void]
    session.add_generation(void, make_draft("user-0001", "7"))

    both = ledger.bills_of_user(OCTOBER, "user-0001")
    assert [(each.generation, each.state, each.total_cents) for each in both] == [
        (1, State.VOID, 1234),
        (2, State.PLANNED, 7),
    ]
    assert session.bills_of_users(["user-0001", "user-0002"]) == both
    assert session.superseded() == []
    assert session.bills_to_redraft() == []
    assert entries(ledger, "user-0001")[-1] == (
        *("biller", "run-1", "user-0001", 2, "drafted_again"),
        *(None, "planned"),
    )


def test_an_unsent_bill_with_a_later_generation_is_superseded(
    session: MonthSession, make_draft: MakeDraft
) -> None:
    bills = write(session, make_draft("user-0001"), make_draft("user-0002"))
    session.add_generation(bills[0], make_draft("user-0001", "7"))

    assert session.superseded() == [bills[0]]
