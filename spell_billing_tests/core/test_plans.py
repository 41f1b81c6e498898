"""Plans over a month: fees add up however a month is split, and more usage never costs less."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.drafting import Account, Draft, draft_invoice
from spell_billing.core.fees import FeesCharged, FeesOf
from spell_billing.core.late import LateUsage
from spell_billing.core.lines import (
    CREDIT,
    FEE,
    FEE_IN_ADVANCE,
    INCLUDED,
    LATE_KINDS,
    PLAN_KINDS,
    Line,
    net_amounts,
)
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.plans import Discount, MonthPlan, PlanSpan, month_plan, overlapping
from spell_billing.core.pricing import Rating, dump_rating, load_rating, rate, rate_cents
from spell_billing.core.terms import USUAL_POLICY, Policy
from spell_billing.invoicing.reconcile import net_lines
from spell_billing.invoicing.rederive_plans import charges
from spell_billing_tests.core.late_usage import late_of

OCTOBER = Month(2026, 10)
ACCOUNT = Account("cus_1")
PRO = PlanSpan("pro", "Pro", included_cents=1_000, fee_cents=2_000, minimum_cents=5_000)
IN_ADVANCE = Policy(fees_in_advance=True)

MONTHS = st.builds(Month, st.integers(2020, 2032), st.integers(1, 12))
CENTS = st.integers(0, 10**8)
SHARES = st.fractions(0, 1, max_denominator=10**9).map(str)
RATINGS = st.builds(Rating, CENTS, SHARES, CENTS, CENTS, SHARES, CENTS)
USAGE = st.builds(
    lambda digits, places: Decimal(digits).scaleb(-places), st.integers(-(10**9), 10**9), st.integers(0, 4)
)


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 10, day, hour, tzinfo=UTC)


def draft(
    plan: MonthPlan | None,
    usage: str = "0",
    *,
    policy: Policy = USUAL_POLICY,
    charged: tuple[int, int] = (0, 0),
    account: Account = ACCOUNT,
    late: tuple[LateUsage, ...] = (),
) -> Draft:
    return draft_invoice(
        OCTOBER,
        "user-1",
        calls=1 if Decimal(usage) else 0,
        usage_cents=Decimal(usage),
        account=account,
        late=late,
        plan=plan,
        fees_charged=FeesCharged(FeesOf(charged_cents=charged[0]), charged[1]),
        policy=policy,
    )


def lines(result: Draft) -> list[tuple[str, str, int]]:
    return [(line.kind, line.description, line.amount_cents) for line in result.lines]


@given(
    month=MONTHS,
    marks=st.lists(st.integers(0, 31 * 86_400 - 1), max_size=8),
    amounts=st.tuples(CENTS, CENTS, CENTS),
)
def test_however_a_month_is_split_its_fees_allowances_and_minimums_add_up_exactly(
    month: Month, marks: list[int], amounts: tuple[int, int, int]
) -> None:
    included, fee, minimum = amounts
    length = int((month.end - month.start).total_seconds())
    moments = [month.start + timedelta(seconds=mark) for mark in sorted({0, *marks}) if mark < length]
    ends = [*moments[1:], month.end]
    spans = [
        PlanSpan(f"plan-{start}", "Plan", start, end, included, fee, minimum)
        for start, end in zip(moments, ends, strict=True)
    ]
    found = month_plan(month, spans)

    assert sum(each.amount_cents for each in found.fees) == fee
    assert found.rating == Rating(included, "0", fee, minimum)


@given(month=MONTHS, start=st.integers(0, 40), days=st.integers(1, 40), fee=CENTS)
def test_a_fee_is_within_a_cent_of_its_share_of_the_month(
    month: Month, start: int, days: int, fee: int
) -> None:
    begins = month.start - timedelta(days=5) + timedelta(days=start)
    ends = begins + timedelta(days=days)
    within = max(timedelta(0), min(ends, month.end) - max(begins, month.start))
    exact = Fraction(fee * within.days, (month.end - month.start).days)
    found = month_plan(month, [PlanSpan("pro", "Pro", begins, ends, fee_cents=fee)])

    assert abs(sum(each.amount_cents for each in found.fees) - exact) <= 1


@given(rating=RATINGS, usage=st.tuples(USAGE, USAGE))
def test_more_usage_never_costs_less(rating: Rating, usage: tuple[Decimal, Decimal]) -> None:
    less, more = sorted(usage)

    assert rate_cents(less, rating) <= rate_cents(more, rating)


@given(rating=RATINGS, usage=USAGE)
def test_the_proof_s_own_arithmetic_agrees_for_every_rating(rating: Rating, usage: Decimal) -> None:
    rated = rate(usage, rating)

    assert charges(rated.usage_cents, rating.included_cents, dump_rating(rating)) == {
        "included": -rated.covered_cents,
        "usage_discount": -rated.usage_discount_cents,
        "minimum": rated.top_up_cents,
        "discount": -rated.discount_cents - rated.amount_off_cents,
    }
    assert load_rating(dump_rating(rating), rating.included_cents) == rating or rating == Rating(
        rating.included_cents
    )


@given(
    rating=RATINGS,
    parts=st.lists(USAGE, min_size=1, max_size=5),
)
def test_late_usage_costs_what_it_would_have_cost_on_time(rating: Rating, parts: list[Decimal]) -> None:
    known, charged = parts[0], rate_cents(parts[0], rating)
    for part in parts[1:]:
        late = late_of(Month(2026, 9), 1, part, known, rating, charged_cents=charged)
        charged += sum(
            line.amount_cents for line in draft(None, late=(late,)).lines if line.kind in LATE_KINDS
        )
        known += part

    assert charged == rate_cents(known, rating)


@given(
    found=st.lists(
        st.builds(
            lambda kind, place, cents: Line(kind, f"line {place}", cents, "2026-10"),
            st.sampled_from(["usage", INCLUDED, *sorted(PLAN_KINDS), CREDIT]),
            st.integers(0, 10**6),
            st.integers(-(10**6), 10**6),
        ),
        max_size=12,
    )
)
def test_taking_plans_off_before_tax_keeps_the_sum_and_the_proof_s_own_arithmetic_agrees(
    found: list[Line],
) -> None:
    amounts = net_amounts(found)

    assert sum(amounts) == sum(line.amount_cents for line in found)
    assert sorted(net_lines(found)) == sorted(
        (cents, line.description) for line, cents in zip(found, amounts, strict=True)
    )


def test_a_change_of_plans_in_the_middle_has_a_line_for_each_plan_and_its_days() -> None:
    basic = PlanSpan("basic", "Basic", None, at(10), fee_cents=1_000, included_cents=310)
    pro = PlanSpan("pro", "Pro", at(10), None, fee_cents=3_100, included_cents=620)
    result = draft(month_plan(OCTOBER, [pro, basic]), "1000")

    assert lines(result) == [
        ("usage", "Spell Platform API Usage - October 2026 (1 calls, $10.00)", 1_000),
        ("included", "Included in Basic and Pro (-$5.30)", -530),
        (FEE, "Basic plan - October 1 to 9, 2026 ($2.90)", 290),
        (FEE, "Pro plan - October 10 to 31, 2026 ($22.00)", 2_200),
    ]
    assert result.total_cents == 1_000 - 530 + 290 + 2_200


def test_a_plan_is_counted_to_the_second() -> None:
    found = month_plan(OCTOBER, [PlanSpan("pro", "Pro", at(31, 12), None, fee_cents=6_200)])

    assert [(fee.text, fee.amount_cents) for fee in found.fees] == [
        ("Pro plan - 2026-10-31 12:00:00 to 2026-11-01 00:00:00", 100)
    ]


def test_a_fee_is_due_without_a_call_and_a_minimum_counts_the_fee() -> None:
    result = draft(month_plan(OCTOBER, [PRO]))

    assert lines(result) == [
        ("minimum", "Up to the minimum of Pro ($30.00)", 3_000),
        (FEE, "Pro plan - October 2026 ($20.00)", 2_000),
    ]
    assert (result.state, result.total_cents) == (State.PLANNED, 5_000)
    assert draft(month_plan(OCTOBER, [PRO]), "4500").total_cents == 4_500 - 1_000 + 2_000


def test_discounts_are_taken_off_in_the_documented_order() -> None:
    plan = PlanSpan("pro", "Pro", fee_cents=2_000, included_cents=1_000, usage_discount_percent=Decimal(10))
    off = [Discount("Launch", percent=Decimal(50)), Discount("Voucher", amount_cents=100)]
    result = draft(month_plan(OCTOBER, [plan], off), "5000")

    assert lines(result)[1:] == [
        ("included", "Included in Pro (-$10.00)", -1_000),
        ("usage_discount", "Discount of Pro on usage (-$4.00)", -400),
        ("discount", "Launch (-$28.00)", -2_800),
        ("discount", "Voucher (-$1.00)", -100),
        (FEE, "Pro plan - October 2026 ($20.00)", 2_000),
    ]
    assert result.total_cents == (5_000 - 1_000 - 400 + 2_000) // 2 - 100


def test_a_discount_counts_for_its_share_of_the_month_and_only_on_its_plan() -> None:
    basic = PlanSpan("basic", "Basic", None, at(16))
    pro = PlanSpan("pro", "Pro", at(16), None)
    half = Discount("Half", Decimal(50), starts_at=at(1), ends_at=at(16))
    on_pro = Discount("Pro month", amount_cents=3_100, plan_id="pro")
    found = month_plan(OCTOBER, [basic, pro], [half, on_pro]).rating

    assert (found.discount, found.discount_cents) == ("15/62", 1_600)


def test_an_amount_off_never_makes_a_credit() -> None:
    found = month_plan(OCTOBER, [], [Discount("Voucher", amount_cents=500)])

    assert draft(found, "300").total_cents == 0
    assert draft(found, "-300").total_cents == -300


def test_fees_in_advance_are_charged_for_the_next_month_and_a_change_is_set_right_afterwards() -> None:
    first = draft(month_plan(OCTOBER.previous(), [PRO]), policy=IN_ADVANCE)
    kept = draft(month_plan(OCTOBER, [PRO]), policy=IN_ADVANCE, charged=(2_000, 0))
    ended = draft(
        month_plan(OCTOBER, [PlanSpan("pro", "Pro", None, at(16), fee_cents=3_100)]),
        policy=IN_ADVANCE,
        charged=(3_100, 0),
    )

    assert [kind for kind, _, _ in lines(first)].count(FEE_IN_ADVANCE) == 1
    assert [line for line in lines(kept) if line[0] in {FEE, FEE_IN_ADVANCE}] == [
        (FEE_IN_ADVANCE, "Pro plan - November 2026, in advance ($20.00)", 2_000)
    ]
    assert lines(ended) == [(FEE, "Plan fees - October 2026, less what was charged before (-$16.00)", -1_600)]
    assert ended.carried_cents == 1_600


def test_fees_that_were_charged_in_advance_are_not_charged_again_when_the_setting_changes() -> None:
    result = draft(month_plan(OCTOBER, [PRO]), "9000", charged=(2_000, 0))

    assert not [line for line in result.lines if line.kind == FEE]
    assert draft(None, "9000", charged=(2_000, 0)).total_cents == 7_000


def test_a_plan_in_another_currency_than_the_account_fails_the_user_by_name() -> None:
    plan = month_plan(OCTOBER, [PlanSpan("pro", "Pro", fee_cents=2_000, currency="eur")])

    assert draft(plan).reason is Reason.PLAN_CURRENCY
    assert draft(plan, account=Account("cus_1", "eur")).state is State.PLANNED


def test_a_plan_of_another_currency_from_the_next_month_on_is_no_matter_of_this_month_s_bill() -> None:
    euro = PlanSpan("pro", "Pro", None, OCTOBER.end, fee_cents=2_000, currency="eur")
    dollar = PlanSpan("world", "World", OCTOBER.end, fee_cents=3_000, currency="usd")
    plan = month_plan(OCTOBER, [euro, dollar])

    for policy in (USUAL_POLICY, IN_ADVANCE):
        found = draft(plan, account=Account("cus_1", "eur"), policy=policy)
        assert (found.state, [(line.kind, line.amount_cents) for line in found.lines]) == (
            State.PLANNED,
            [(FEE, 2_000)],
        )


@pytest.mark.parametrize(("second_starts", "do_overlap"), [(at(16), False), (at(15), True), (None, True)])
def test_two_plans_at_once_are_found(second_starts: datetime | None, *, do_overlap: bool) -> None:
    spans = [PlanSpan("basic", "Basic", None, at(16)), PlanSpan("pro", "Pro", second_starts)]

    assert (overlapping(spans, OCTOBER) is not None) == do_overlap
