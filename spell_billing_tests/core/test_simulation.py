"""The figures of a simulation add up, and a user's month is what drafting makes of it."""

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.month import Month
from spell_billing.core.open_month import rate_open_month
from spell_billing.core.plans import Discount, PlanSpan, month_plan
from spell_billing.core.simulation import UserChange, add_up, figures_of, largest, percentile

MARCH = Month(2025, 3)
CENTS = st.integers(0, 10**7)
USAGE = st.builds(lambda digits: Decimal(digits).scaleb(-3), st.integers(-(10**6), 10**9))
PERCENT = st.decimals(0, 100, places=2)
SPANS = st.builds(
    PlanSpan,
    *(st.just("pro"), st.just("Pro"), st.none(), st.none()),
    *(CENTS, CENTS, CENTS, PERCENT),
)
CHANGES = st.lists(
    st.builds(
        UserChange,
        st.sampled_from(["ada", "bob", "cyd", "dan"]),
        st.sampled_from(["eur", "usd"]),
        st.integers(-(10**6), 10**6),
        st.integers(-(10**6), 10**6),
    ),
    max_size=30,
)


@given(span=SPANS, percent=PERCENT, amount=CENTS, usage=USAGE)
def test_a_user_s_month_is_the_total_that_drafting_gives(
    span: PlanSpan, percent: Decimal, amount: int, usage: Decimal
) -> None:
    plan = month_plan(MARCH, [span], [Discount("deal", percent, amount)])

    draft = draft_invoice(MARCH, "ada", calls=1, usage_cents=usage, account=Account("cus_1"), plan=plan)

    assert rate_open_month(usage, plan.rating).due_cents == draft.total_cents


@given(changes=CHANGES)
def test_the_figures_add_up_and_in_all_is_the_sum_of_the_months(changes: list[UserChange]) -> None:
    users = add_up(changes)
    figures = {each.currency: each for each in figures_of(users)}

    for currency, found in figures.items():
        mine = [each for each in changes if each.currency == currency]
        assert found.before_cents == sum(each.before_cents for each in mine)
        assert found.after_cents == sum(each.after_cents for each in mine)
        assert found.users == found.more.users + found.less.users + found.same.users
        assert found.by_cents == found.more.by_cents + found.less.by_cents
        by = sorted(each.by_cents for each in users if each.currency == currency)
        for percent, cents in ((50, found.p50_cents), (95, found.p95_cents)):
            reached = Fraction(sum(one <= cents for one in by), len(by))
            below = Fraction(sum(one < cents for one in by), len(by))
            assert below < Fraction(percent, 100) <= reached
    assert figures.keys() == {each.currency for each in changes}
    assert len(users) == len({(each.user_id, each.currency) for each in changes})


def test_the_largest_changes_are_ten_in_each_currency_up_or_down() -> None:
    changes = [UserChange(f"user-{n:02}", "usd", 100, 100 + n * (-1) ** n) for n in range(15)]

    found = largest([*changes, UserChange("eva", "eur", 5, 9), UserChange("eve", "eur", 5, 5)])

    assert [each.user_id for each in found] == ["eva", *(f"user-{n:02}" for n in range(14, 4, -1))]
    assert percentile([7], 95) == 7
    assert percentile(list(range(1, 101)), 95) == 95
