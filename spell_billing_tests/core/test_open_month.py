"""An open month in money: rated as the bill will be, projected evenly, held against limits."""

from collections import Counter
from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.month import Month
from spell_billing.core.open_month import (
    expected_totals,
    is_blocked,
    news,
    percent_used,
    projected_cents,
    rate_open_month,
    rating_of,
)
from spell_billing.core.plans import PlanSpan, month_plan

APRIL = Month(2025, 4)
CENTS = st.decimals(min_value=-(10**6), max_value=10**6, places=3)
ACCOUNTS = st.builds(
    Account,
    st.just("cus_1"),
    currency=st.sampled_from(["usd", "eur", "jpy"]),
    included_cents=st.integers(0, 10**6),
)
PERCENTS = st.lists(st.integers(1, 300), unique=True).map(sorted)


@given(
    usage_cents=CENTS, account=ACCOUNTS, fee_cents=st.integers(0, 10**5), minimum_cents=st.integers(0, 10**5)
)
def test_an_open_month_is_rated_as_its_bill_will_be(
    usage_cents: Decimal, account: Account, fee_cents: int, minimum_cents: int
) -> None:
    span = PlanSpan("pro", "Pro", None, None, account.included_cents, fee_cents, minimum_cents)
    for plan in (None, month_plan(APRIL, [span])):
        bill = draft_invoice(APRIL, "user", calls=1, usage_cents=usage_cents, account=account, plan=plan)
        rated = rate_open_month(usage_cents, rating_of(account, plan))

        assert rated.due_cents == bill.total_cents
        assert rated.usage_cents - rated.covered_cents + rated.plan_cents == rated.due_cents


def test_amounts_of_plans_in_another_currency_are_not_added() -> None:
    pro = PlanSpan("pro", "Pro", None, None, 300, 2_000, 5_000, currency="eur")
    account, plan = Account("cus_1", currency="usd"), month_plan(APRIL, [pro])

    (found,) = expected_totals({"ada": Decimal(700)}, {"ada": account}, APRIL, APRIL.start, lambda _: plan)

    assert (found.currency, found.so_far_cents) == ("usd", 700)


@given(
    usage=st.dictionaries(st.text(min_size=1), CENTS, max_size=8),
    account=ACCOUNTS,
    hours=st.integers(0, 30 * 24 - 1),
)
def test_a_forecast_is_the_sum_of_what_each_user_is_told(
    usage: dict[str, Decimal], account: Account, hours: int
) -> None:
    accounts, now = dict.fromkeys(list(usage)[::2], account), APRIL.start + timedelta(hours=hours)
    so_far, expected = Counter[str](), Counter[str]()
    for user, usage_cents in usage.items():
        of_user = accounts.get(user, Account(None))
        so_far[of_user.currency] += max(0, rate_open_month(usage_cents, rating_of(of_user, None)).due_cents)
        whole = projected_cents(usage_cents, APRIL, now)
        if whole is not None:
            expected[of_user.currency] += max(0, rate_open_month(whole, rating_of(of_user, None)).due_cents)

    found = expected_totals(usage, accounts, APRIL, now)

    assert sum(each.users for each in found) == len(usage)
    assert {each.currency: each.so_far_cents for each in found} == so_far
    assert {each.currency: each.expected_cents for each in found} == {
        each.currency: expected[each.currency] if hours >= 24 else None for each in found
    }


@given(so_far_cents=st.integers(-(10**9), 10**9), limit_cents=st.integers(1, 10**9), percents=PERCENTS)
def test_being_blocked_and_the_threshold_of_the_whole_limit_agree(
    so_far_cents: int, limit_cents: int, percents: list[int]
) -> None:
    told = news([*percents, 100], so_far_cents, limit_cents, 0)

    assert is_blocked(so_far_cents, limit_cents) == (told is not None and told >= 100)
    assert is_blocked(so_far_cents, limit_cents) == ((percent_used(so_far_cents, limit_cents) or 0) >= 100)


@given(
    percents=PERCENTS,
    looks=st.lists(st.tuples(st.integers(-1_000, 100_000), st.integers(1, 1_000)), max_size=20),
)
def test_whatever_limits_and_usage_do_no_threshold_is_told_twice(
    percents: list[int], looks: list[tuple[int, int]]
) -> None:
    told: list[int] = []
    for so_far_cents, limit_cents in looks:
        percent = news(percents, so_far_cents, limit_cents, told[-1] if told else 0)
        if percent is not None:
            told.append(percent)
            assert so_far_cents * 100 >= percent * limit_cents

    assert told == sorted(set(told))


def test_a_limit_of_zero_blocks_from_the_beginning_and_no_limit_never() -> None:
    assert (percent_used(0, 0), is_blocked(0, 0), news([50, 100], 5, 0, 0)) == (None, True, None)
    assert (percent_used(10**9, None), is_blocked(10**9, None)) == (None, False)
    assert (percent_used(-5, 100), percent_used(199, 100), percent_used(4_999, 5_000)) == (0, 199, 99)
