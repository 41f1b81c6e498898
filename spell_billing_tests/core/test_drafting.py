"""Drafting one invoice: its lines sum up, its verdict has a reason, its text is as promised."""

import json
from decimal import Decimal
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from spell_billing.core.drafting import MAX_LINES, Account, Credit, Draft, draft_invoice
from spell_billing.core.errors import UsageError
from spell_billing.core.late import LateUsage
from spell_billing.core.lines import (
    ADJUSTMENT,
    CREDIT,
    INCLUDED,
    LATE_USAGE,
    USAGE,
    Line,
    dump_lines,
    lines_hash,
    load_lines,
)
from spell_billing.core.money import MAX_AMOUNT_CENTS
from spell_billing.core.month import Month
from spell_billing.core.outcomes import REMEDIES, Reason, State
from spell_billing.core.pricing import Rating
from spell_billing_tests.core.late_usage import late_of

OCTOBER = Month(2026, 10)
ACCOUNT = Account("cus_1")
INT64 = st.integers(-(2**63), 2**63 - 1)
PLAN = Account("cus_1", plan_id="pro", plan_name="Pro", included_cents=500)

CENTS = st.builds(
    lambda digits, places: Decimal(digits).scaleb(-places), st.integers(-(10**10), 10**10), st.integers(0, 6)
)
CURRENCIES = st.sampled_from(["usd", "eur", "jpy"])
ACCOUNTS = st.none() | st.builds(
    Account,
    st.none() | st.just("cus_1"),
    CURRENCIES,
    plan_id=st.none() | st.just("pro"),
    included_cents=st.integers(0, 10**6),
)
LATE = st.builds(
    late_of,
    st.builds(Month, st.just(2026), st.integers(1, 9)),
    st.integers(-100, 100),
    CENTS,
    CENTS,
    st.builds(Rating, st.integers(0, 10**6)),
    st.none() | CURRENCIES,
    st.sampled_from([LATE_USAGE, ADJUSTMENT]),
)
CREDITS = st.none() | st.builds(Credit, st.integers(1, 10**8), CURRENCIES)
DRAFTS = st.builds(
    lambda calls, usage, account, late, credit: (
        draft_invoice(
            OCTOBER, "user-1", calls=calls, usage_cents=usage, account=account, late=late, credit=credit
        ),
        credit,
    ),
    st.integers(0, 10**6),
    CENTS | st.just(Decimal(0)),
    ACCOUNTS,
    st.lists(LATE, max_size=4),
    CREDITS,
)


def draft(
    usage: str = "1234",
    *,
    calls: int = 1234,
    account: Account | None = ACCOUNT,
    late: tuple[LateUsage, ...] = (),
    credit: Credit | None = None,
) -> Draft:
    return draft_invoice(
        OCTOBER,
        "user-1",
        calls=calls,
        usage_cents=Decimal(usage),
        account=account,
        late=late,
        credit=credit,
    )


@given(drafted=DRAFTS)
def test_the_lines_always_sum_to_the_total(drafted: tuple[Draft, Credit | None]) -> None:
    result, _ = drafted

    assert sum(line.amount_cents for line in result.lines) == result.total_cents


@given(drafted=DRAFTS)
def test_no_more_credit_is_used_than_there_is_and_what_is_left_over_is_carried(
    drafted: tuple[Draft, Credit | None],
) -> None:
    result, credit = drafted
    charges = sum(line.amount_cents for line in result.lines if line.kind != CREDIT)

    assert 0 <= result.credit_applied_cents <= (credit.amount_cents if credit else 0)
    assert charges == result.total_cents + result.credit_applied_cents
    assert result.carried_cents == (0 if result.state is State.HELD else max(0, -result.total_cents))
    assert result.carried_cents == 0 or result.credit_applied_cents == 0


@given(drafted=DRAFTS)
def test_a_credit_of_another_currency_is_never_used_nor_made(drafted: tuple[Draft, Credit | None]) -> None:
    result, credit = drafted

    if credit and credit.currency != result.currency:
        assert result.credit_applied_cents == 0
        assert result.carried_cents == 0
        assert result.state is State.HELD


@given(drafted=DRAFTS)
def test_only_a_bill_that_stripe_can_take_is_planned_and_any_other_has_its_reason(
    drafted: tuple[Draft, Credit | None],
) -> None:
    result, _ = drafted

    assert (result.reason is None) == (result.state is State.PLANNED)
    if result.state is State.PLANNED:
        assert 0 < result.total_cents <= MAX_AMOUNT_CENTS
        assert result.account is not None
        assert result.account.stripe_customer_id
        assert result.currency == result.account.currency
        assert all(abs(line.amount_cents) <= MAX_AMOUNT_CENTS for line in result.lines)


@given(
    months=st.lists(st.tuples(CENTS, st.integers(0, 10**6)), min_size=1, max_size=12),
)
def test_over_a_year_every_cent_is_billed_or_stands_as_credit(months: list[tuple[Decimal, int]]) -> None:
    open_credit = billed = charged = 0
    for usage, included in months:
        credit = Credit(open_credit, "usd") if open_credit else None
        account = structs.replace(ACCOUNT, included_cents=included)
        result = draft_invoice(OCTOBER, "user-1", calls=1, usage_cents=usage, account=account, credit=credit)
        charged += sum(line.amount_cents for line in result.lines if line.kind != CREDIT)
        billed += max(0, result.total_cents)
        open_credit += result.carried_cents - result.credit_applied_cents

        assert open_credit >= 0
        assert billed - open_credit == charged


def test_the_text_is_the_one_the_platform_promises() -> None:
    result = draft("1233.5")

    assert result.description == "Spell Platform API Usage - October 2026 (1234 calls, $12.34)"
    assert [line.description for line in result.lines] == [result.description]
    assert (result.state, result.reason) == (State.PLANNED, None)


def test_every_line_says_what_it_is_and_the_description_says_what_is_due() -> None:
    late = (
        late_of(Month(2026, 9), 3, Decimal("10.5"), Decimal(900), rating=Rating(500)),
        late_of(Month(2026, 8), -1, Decimal(-20), Decimal(900), kind=ADJUSTMENT),
    )
    result = draft("1233.5", account=PLAN, late=late, credit=Credit(25, "usd"))

    assert [(line.kind, line.amount_cents, line.usage_month, line.description) for line in result.lines] == [
        (USAGE, 1234, "2026-10", "Spell Platform API Usage - October 2026 (1234 calls, $12.34)"),
        (INCLUDED, -500, "2026-10", "Included in Pro (-$5.00)"),
        (ADJUSTMENT, -20, "2026-08", "Adjustment - August 2026 (-1 calls, -$0.20)"),
        (LATE_USAGE, 11, "2026-09", "Late usage - September 2026 (3 calls, $0.11)"),
        (CREDIT, -25, "2026-10", "Credit carried from earlier months (-$0.25)"),
    ]
    assert result.total_cents == 1234 - 500 - 20 + 11 - 25
    assert result.description == "Spell Platform API Usage - October 2026 (1234 calls, $7.00)"
    assert result.lines[0].usage_cents == "1233.5"


def test_rounding_happens_once_per_line_and_not_on_their_sum() -> None:
    late = (late_of(Month(2026, 9), 1, Decimal("0.5")), late_of(Month(2026, 8), 1, Decimal("0.5")))

    assert draft("0.5", calls=1, late=late).total_cents == 3


@pytest.mark.parametrize(
    ("result", "state", "reason"),
    [
        (draft("0", calls=3), State.SKIPPED, Reason.NO_CHARGE),
        (draft("0.4", calls=1), State.SKIPPED, Reason.NO_CHARGE),
        (draft("500", account=PLAN), State.SKIPPED, Reason.NO_CHARGE),
        (draft("500", credit=Credit(500, "usd")), State.SKIPPED, Reason.NO_CHARGE),
        (draft("-0.5"), State.SKIPPED, Reason.CREDIT_CARRIED),
        (draft("0", account=None), State.SKIPPED, Reason.NO_CHARGE),
        (draft(account=None), State.FAILED, Reason.NO_BILLING_ACCOUNT),
        (draft(account=Account(None)), State.FAILED, Reason.NO_STRIPE_CUSTOMER),
        (draft(account=Account("")), State.FAILED, Reason.NO_STRIPE_CUSTOMER),
        (draft(account=Account("cus_1", "dollar")), State.FAILED, Reason.UNKNOWN_CURRENCY),
        (draft(credit=Credit(1, "eur")), State.HELD, Reason.CURRENCY_CHANGED),
        (
            draft(late=(late_of(Month(2026, 9), 1, Decimal(1), currency="eur"),)),
            State.HELD,
            Reason.CURRENCY_CHANGED,
        ),
        (draft(str(MAX_AMOUNT_CENTS)), State.PLANNED, None),
        (draft(str(MAX_AMOUNT_CENTS + 1)), State.FAILED, Reason.AMOUNT_TOO_LARGE),
        # The total would pass, one of its lines would not.
        (
            draft(str(MAX_AMOUNT_CENTS + 1), credit=Credit(10, "usd")),
            State.FAILED,
            Reason.AMOUNT_TOO_LARGE,
        ),
    ],
)
def test_each_case_has_its_state_and_reason(result: Draft, state: State, reason: Reason | None) -> None:
    assert (result.state, result.reason) == (state, reason)


def test_more_lines_than_stripe_takes_at_once_are_refused() -> None:
    def with_lines(count: int) -> Draft:
        months = [Month(2000, 1).plus(index) for index in range(count - 1)]
        return draft(late=tuple(late_of(month, 1, Decimal(1)) for month in months))

    assert with_lines(MAX_LINES).state is State.PLANNED
    assert with_lines(MAX_LINES + 1).reason is Reason.TOO_MANY_LINES


def test_a_month_of_late_usage_alone_has_no_usage_line() -> None:
    result = draft("0", calls=0, late=(late_of(Month(2026, 9), 2, Decimal(70)),))

    assert [line.kind for line in result.lines] == [LATE_USAGE]
    assert result.total_cents == 70


def test_the_hash_depends_on_what_the_invoice_says_and_on_nothing_else() -> None:
    lines = draft("1233.5", account=PLAN).lines
    same = lines_hash("cus_1", "usd", "text", load_lines(dump_lines(lines)))

    assert lines_hash("cus_1", "usd", "text", lines) == same
    others = {
        lines_hash("cus_2", "usd", "text", lines),
        lines_hash("cus_1", "eur", "text", lines),
        lines_hash("cus_1", "usd", "other", lines),
        lines_hash("cus_1", "usd", "text", lines[:1]),
        lines_hash("cus_1", "usd", "text", lines[::-1]),
        lines_hash("cus_1", "usd", "text", [structs.replace(lines[0], calls=1), *lines[1:]]),
        lines_hash("cus_1", "usd", "text", [structs.replace(lines[0], usage_cents="1234"), *lines[1:]]),
    }
    assert len(others | {same}) == 8


def test_the_hash_stays_what_it_was_when_the_first_invoices_were_sent() -> None:
    # It stands in the metadata of invoices at Stripe: another hash would orphan them.
    content = (
        '["cus_1","usd","text",[{"kind":"usage","description":"é","amount_cents":5,'
        '"usage_month":"2026-10","calls":1,"usage_cents":"4.5"}]]'
    )
    found = lines_hash("cus_1", "usd", "text", [Line(USAGE, "é", 5, "2026-10", 1, "4.5")])

    assert found == sha256(content.encode()).hexdigest()


@given(lines=st.lists(st.builds(Line, st.text(), st.text(), INT64, st.just("2026-10"), INT64, st.text())))
def test_lines_come_back_from_the_ledger_as_they_went_in(lines: list[Line]) -> None:
    text = dump_lines(lines)

    assert load_lines(text) == tuple(lines)
    assert isinstance(json.loads(text), list)


def test_a_sum_beyond_what_a_ledger_can_hold_names_the_user() -> None:
    with pytest.raises(UsageError, match="user-0001") as raised:
        draft_invoice(OCTOBER, "user-0001", calls=1, usage_cents=Decimal(2**63), account=ACCOUNT)

    assert "Correct" in raised.value.remedy


def test_every_reason_has_a_remedy_in_words() -> None:
    assert set(REMEDIES) == set(Reason)
    assert all(text.endswith(".") for text in REMEDIES.values())
