"""Late usage: however it is split over later invoices, no cent is lost or invented."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.lines import LATE_KINDS
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.core.pricing import Rating, due_cents, rate_cents
from spell_billing_tests.core.late_usage import late_of

SEPTEMBER = Month(2026, 9)
ACCOUNT = Account("cus_1")

# More digits in all than Python's decimals keep by default (28).
AMOUNTS = st.builds(
    lambda whole, fraction: Decimal(f"{whole}.{fraction:020d}"),
    st.integers(-(10**12), 10**12),
    st.integers(0, 10**20 - 1),
)


@given(
    initial=AMOUNTS,
    deltas=st.lists(AMOUNTS, max_size=12),
    rating=st.builds(Rating, st.integers(0, 10**6)),
)
def test_late_lines_sum_to_the_difference_of_the_ratings(
    initial: Decimal, deltas: list[Decimal], rating: Rating
) -> None:
    billed, late_cents = initial, 0
    for index, delta in enumerate(deltas):
        late = late_of(SEPTEMBER, 1, delta, billed, rating)
        result = draft_invoice(
            SEPTEMBER.plus(index + 1), "user-1", calls=0, usage_cents=Decimal(0), account=ACCOUNT, late=[late]
        )
        late_cents += sum(line.amount_cents for line in result.lines if line.kind in LATE_KINDS)
        billed = exact_sum(billed, delta)

    assert Fraction(billed) == sum(map(Fraction, deltas), Fraction(initial))
    assert late_cents == rate_cents(billed, rating) - rate_cents(initial, rating)


def test_a_late_amount_just_below_half_a_cent_is_not_rounded_twice() -> None:
    # The sum has 30 digits: kept to 28 of them, it would be half a cent and then a whole one.
    late = late_of(SEPTEMBER, 1, Decimal("0." + "4" + 19 * "9"), billed_cents=Decimal(10**9))
    result = draft_invoice(
        SEPTEMBER.next(), "user-1", calls=0, usage_cents=Decimal(0), account=ACCOUNT, late=[late]
    )

    assert result.total_cents == 0


def test_a_hundred_late_thirds_of_a_cent_cost_what_they_cost_together() -> None:
    third, billed, total_cents = Decimal("0.3333333333333333333333333333333333"), Decimal(0), 0
    for _ in range(100):
        result = draft_invoice(
            SEPTEMBER.next(),
            "user-1",
            calls=0,
            usage_cents=Decimal(0),
            account=ACCOUNT,
            late=[late_of(SEPTEMBER, 1, third, billed)],
        )
        total_cents += result.total_cents
        billed = exact_sum(billed, third)

    assert total_cents == 33


def test_an_allowance_left_over_in_the_late_month_covers_its_late_usage() -> None:
    late = late_of(SEPTEMBER, 10, Decimal(300), billed_cents=Decimal(400), rating=Rating(500))
    result = draft_invoice(
        SEPTEMBER.next(), "user-1", calls=0, usage_cents=Decimal(0), account=ACCOUNT, late=[late]
    )

    assert result.total_cents == 200


BOUNDS = {
    "nothing given back": (400, 0, 1000, 0, 0),
    "given back of what nobody pays": (400, -600, 1000, 0, 600),
    "and a refund": (-200, -1200, 1000, -200, 1000),
    "a refund before the charge that is given up": (300, -500, 800, -500, 0),
    "more than was given up": (1200, 0, 1000, 0, 200),
}


@pytest.mark.parametrize(
    ("target", "charged", "forgiven", "lowest", "due"), BOUNDS.values(), ids=BOUNDS.keys()
)
def test_what_was_given_up_leaves_nobody_ahead_by_more_than_refunds(
    target: int, charged: int, forgiven: int, lowest: int, due: int
) -> None:
    assert due_cents(target, charged, forgiven, lowest_cents=lowest) == due
