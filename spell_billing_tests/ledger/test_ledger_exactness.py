"""What the ledger keeps: decimals to the last digit, aware moments, and an audit trail that only grows."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
import sqlalchemy as sa
from msgspec import structs

from spell_billing.core.drafting import Draft
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor, Bill, Change
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession
from spell_billing.settings.databases import DatabaseUrl, create_engine_for

OCTOBER = Month(2026, 10)
COPY_OF_THE_AUDIT = (
    "INTO ledger_audit (id, at, actor, run_id, month, action) "
    "SELECT id, at, 'nobody', run_id, month, action FROM ledger_audit WHERE true"
)

MakeDraft = Callable[..., Draft]


@pytest.fixture
def session(ledger: Ledger) -> Iterator[MonthSession]:
    with ledger.session(OCTOBER, Actor("biller", "run-1"), wait_seconds=0) as opened:
        yield opened


def write(session: MonthSession, *drafts: Draft, usage: str = "1234") -> list[Bill]:
    session.replace_drafts(drafts, usage_version="v1", calls=3, usage_cents=Decimal(usage))
    return session.page(None, after_id=0, limit=100)


def test_decimals_come_back_to_the_last_digit(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    usages = [
        "0.1",
        "1234.500000",
        "1E-18",
        "123456789012345678901234567890.123456789",
        "-0.000000000000000000000000000000000001",
        "99999999999999999999999999999999999999",
    ]
    for usage in usages:
        (bill,) = write(session, structs.replace(make_draft(), usage_cents=Decimal(usage)), usage=usage)
        record = session.record()

        assert bill.usage_cents == Decimal(usage)
        assert record is not None
        assert record.usage_cents == Decimal(usage)
        assert ledger.drafted_usage(OCTOBER) == (1, 3, Decimal(usage))


def test_sums_of_usage_keep_every_digit(ledger: Ledger, session: MonthSession, make_draft: MakeDraft) -> None:
    usages = ["12345678901234567890", "0.00000000000000000001"]
    drafts = [
        structs.replace(make_draft(f"user-{number}"), usage_cents=Decimal(usage))
        for number, usage in enumerate(usages)
    ]
    write(session, *drafts)

    assert ledger.drafted_usage(OCTOBER)[2] == Decimal("12345678901234567890.00000000000000000001")


def test_the_usage_of_each_group_keeps_every_digit(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    usages = {"0.1": None, "12345678901234567890": None, "0.25": Reason.NO_BILLING_ACCOUNT, "3": None}
    drafts = [
        structs.replace(
            make_draft(f"user-{usage}"),
            usage_cents=Decimal(usage),
            state=State.FAILED if reason else State.PLANNED,
            reason=reason,
        )
        for usage, reason in usages.items()
    ]
    write(session, *drafts)

    groups = {group.reason: (group.users, group.usage_cents) for group in ledger.group_totals(OCTOBER)}

    assert groups == {
        Reason.NO_BILLING_ACCOUNT: (1, Decimal("0.25")),
        None: (3, Decimal("12345678901234567893.1")),
    }


def test_equal_usage_is_stored_alike_so_that_the_database_can_compare_it(
    session: MonthSession, make_draft: MakeDraft
) -> None:
    zeros = [structs.replace(make_draft(), usage_cents=Decimal(text)) for text in ("0", "0.00", "-0", "0E+3")]
    drafts = [structs.replace(draft, user_id=f"user-{number}") for number, draft in enumerate(zeros)]
    write(session, *drafts)

    query = sa.select(sa.func.count()).where(invoices.c.usage_cents == Decimal(0))
    with session.writing():
        assert session._connection.scalar(query) == len(drafts)


def test_moments_come_back_aware_and_in_utc(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    (bill,) = write(session, make_draft())
    elsewhere = datetime(2026, 11, 1, 8, 30, 15, 123456, tzinfo=timezone(timedelta(hours=9)))
    session.apply([Change(bill, replace(bill, state=State.FINALIZED, finalized_at=elsewhere), "finalized")])

    (stored,) = ledger.bills(OCTOBER)
    assert stored.finalized_at == elsewhere
    moments = [
        stored.finalized_at,
        stored.created_at,
        stored.updated_at,
        ledger.audit_trail(OCTOBER)[0]["at"],
    ]
    assert {moment.tzinfo for moment in moments if moment} == {UTC}


def test_a_naive_moment_never_reaches_the_ledger(
    ledger: Ledger, session: MonthSession, make_draft: MakeDraft
) -> None:
    (bill,) = write(session, make_draft())
    naive = datetime(2026, 11, 1)  # noqa: DTZ001 - the point of the test

    with pytest.raises(sa.exc.StatementError, match="naive"):
        session.apply([Change(bill, replace(bill, state=State.FINALIZED, finalized_at=naive), "finalized")])
    assert list(ledger.bills(OCTOBER)) == [bill]


def test_the_database_itself_refuses_to_change_the_audit_trail(
    url: DatabaseUrl, ledger: Ledger, drafted: Callable[..., None]
) -> None:
    drafted(["user-0001", "user-0002"])
    before = ledger.audit_trail(OCTOBER)
    own = f"INSERT OR REPLACE {COPY_OF_THE_AUDIT}" if url.backend == "sqlite" else "TRUNCATE ledger_audit"
    statements = [
        "UPDATE ledger_audit SET actor = 'nobody'",
        f"UPDATE ledger_audit SET detail = NULL WHERE id = {before[0]['id']}",
        "DELETE FROM ledger_audit",
        f"INSERT {COPY_OF_THE_AUDIT} ON CONFLICT (id) DO UPDATE SET actor = 'nobody'",
        own,
    ]
    engine = create_engine_for(url)
    try:
        for statement in statements:
            with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
                connection.execute(sa.text(statement))
            assert ledger.audit_trail(OCTOBER) == before
    finally:
        engine.dispose()
