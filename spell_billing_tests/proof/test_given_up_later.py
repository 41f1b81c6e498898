"""A bill that is given up, or paid after all, once rows of it came or went: what was given back follows."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.rows import Actor, Change
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, SmallPlatform

ONE = "user-0001"


def become(platform: SmallPlatform, month: Month, state: State, reason: Reason | None = None) -> None:
    """Put the bill into a state, as payments that are followed do."""
    with platform.ledger() as ledger, ledger.session(month, Actor("test")) as session:
        bill = ledger.bills_of_user(month, ONE)[-1]
        session.apply([Change(bill, replace(bill, state=state, reason=reason), "followed")])


def void_for_good(platform: SmallPlatform) -> None:
    platform.void(MARCH, ONE, for_good=True)


def never_paid(platform: SmallPlatform) -> None:
    become(platform, MARCH, State.UNCOLLECTIBLE)


def void_then_written_off(platform: SmallPlatform) -> None:
    platform.void(MARCH, ONE)
    platform.settle(MARCH, ONE, "written-off")


def by_hand_then_written_off(platform: SmallPlatform) -> None:
    platform.void(MARCH, ONE)
    platform.settle(MARCH, ONE, "billed-by-hand")
    platform.settle(MARCH, ONE, "written-off")


GIVEN_UP = {
    each.__name__: each
    for each in (void_for_good, never_paid, void_then_written_off, by_hand_then_written_off)
}


def billed(platform: SmallPlatform, cents: int = 1000, **plan: int) -> None:
    """Bill March; each account is on the plan, where one is given."""
    columns = {}
    if plan:
        platform.source.plans([{"plan_id": "pro", "name": "Pro", **plan}])
        columns = {"plan_id": "pro"}
    platform.accounts(ONE, **columns)
    platform.calls(MARCH, (ONE, cents))
    platform.bill(MARCH)


def cost(platform: SmallPlatform, cents: int, before: int = 1000) -> None:
    platform.sql(f"UPDATE usage_counters SET cost_cents = {cents} WHERE cost_cents = {before}")


def given_back_then_given_up(platform: SmallPlatform) -> None:
    """Let April give back 600 of March's 1000, and March be void for good after that."""
    billed(platform)
    cost(platform, 400)
    platform.calls(APRIL, (ONE, 900))
    platform.bill(APRIL)
    void_for_good(platform)


def late(platform: SmallPlatform, month: Month) -> list[tuple[str, int]]:
    """Give the lines that are about other months."""
    of_month = {str(month)}
    lines = platform.bill_of(month, ONE).parsed_lines
    return [(line.kind, line.amount_cents) for line in lines if line.usage_month not in of_month]


def must_agree(platform: SmallPlatform, *months: Month) -> None:
    for month in months:
        assert platform.reconcile(month).findings == [], month


@pytest.mark.parametrize("give_up", GIVEN_UP.values(), ids=GIVEN_UP)
def test_what_was_given_back_of_a_bill_that_is_then_given_up_is_charged_once(
    light_platform: SmallPlatform, give_up: Callable[[SmallPlatform], None]
) -> None:
    billed(light_platform)
    cost(light_platform, 400)
    light_platform.calls(APRIL, (ONE, 900))
    light_platform.bill(APRIL)
    assert late(light_platform, APRIL) == [("late_usage", -600)]

    give_up(light_platform)
    must_agree(light_platform, MARCH, APRIL)
    light_platform.calls(MAY, (ONE, 2000))
    light_platform.bill(MAY)
    light_platform.bill(JUNE)

    assert late(light_platform, MAY) == [("adjustment", 600)]
    assert not light_platform.generations(JUNE, ONE)
    must_agree(light_platform, MARCH, APRIL, MAY)


def test_what_was_charged_for_it_can_be_given_up_too(light_platform: SmallPlatform) -> None:
    given_back_then_given_up(light_platform)
    light_platform.bill(MAY)
    assert light_platform.lines(MAY, ONE) == [("adjustment", 600)]

    light_platform.void(MAY, ONE, for_good=True)
    light_platform.bill(JUNE)

    assert not light_platform.generations(JUNE, ONE)
    must_agree(light_platform, MARCH, APRIL, MAY, JUNE)


def test_the_proof_names_what_no_later_bill_has_charged(light_platform: SmallPlatform) -> None:
    given_back_then_given_up(light_platform)

    # As if a month had been drafted since.
    light_platform.sql("UPDATE ledger_months SET drafted_at = '2999-01-01 00:00:00' WHERE month = '2025-04'")

    assert light_platform.findings(APRIL) == [(ONE, "late_usage_differs")]


def test_what_was_given_back_as_a_credit_that_is_carried_is_charged_too(
    light_platform: SmallPlatform,
) -> None:
    billed(light_platform)
    cost(light_platform, 400)
    light_platform.calls(APRIL, (ONE, 100))
    light_platform.bill(APRIL)
    void_for_good(light_platform)

    light_platform.calls(MAY, (ONE, 50))
    light_platform.bill(MAY)

    # 500 of April are left: 50 of May and the 600 that nobody paid are due.
    assert light_platform.lines(MAY, ONE) == [("usage", 50), ("adjustment", 600), ("credit", -500)]
    must_agree(light_platform, MARCH, APRIL, MAY)


def test_it_is_charged_where_nothing_else_is(light_platform: SmallPlatform) -> None:
    given_back_then_given_up(light_platform)

    light_platform.bill(MAY)

    assert [each.total_cents for each in light_platform.standing()] == [300, 600]


def test_a_bill_that_is_paid_after_all_gives_back_for_rows_that_went(light_platform: SmallPlatform) -> None:
    billed(light_platform)
    never_paid(light_platform)
    cost(light_platform, 400)
    light_platform.calls(APRIL, (ONE, 900))
    light_platform.bill(APRIL)
    assert late(light_platform, APRIL) == [("late_usage", 0)]

    become(light_platform, MARCH, State.PAID)
    must_agree(light_platform, APRIL)
    light_platform.calls(MAY, (ONE, 2000))
    light_platform.bill(MAY)

    assert late(light_platform, MAY) == [("adjustment", -600)]
    must_agree(light_platform, APRIL, MAY)


def test_what_was_charged_for_a_bill_given_up_goes_back_once_that_is_paid(
    light_platform: SmallPlatform,
) -> None:
    billed(light_platform)
    cost(light_platform, 400)
    light_platform.calls(APRIL, (ONE, 900))
    light_platform.bill(APRIL)
    never_paid(light_platform)
    light_platform.bill(MAY)
    assert late(light_platform, MAY) == [("adjustment", 600)]

    become(light_platform, MARCH, State.PAID)
    light_platform.calls(JUNE, (ONE, 2000))
    light_platform.bill(JUNE)

    assert late(light_platform, JUNE) == [("adjustment", -600)]
    must_agree(light_platform, APRIL, MAY, JUNE)


def test_a_line_that_went_out_twice_because_its_bill_was_closed_by_hand_later_is_charged(
    light_platform: SmallPlatform,
) -> None:
    billed(light_platform)
    cost(light_platform, 400)
    light_platform.calls(APRIL, (ONE, 900))
    light_platform.bill(APRIL)
    light_platform.void(APRIL, ONE, for_good=True)
    light_platform.calls(MAY, (ONE, 10_000))
    light_platform.bill(MAY)
    assert late(light_platform, MAY) == [("adjustment", -600)]

    light_platform.settle(APRIL, ONE, "billed-by-hand")
    must_agree(light_platform, MARCH, APRIL, MAY)
    light_platform.calls(JUNE, (ONE, 2000))
    light_platform.bill(JUNE)

    assert late(light_platform, JUNE) == [("adjustment", 600)]
    must_agree(light_platform, MARCH, APRIL, MAY, JUNE)


def test_a_refund_of_a_month_that_cost_nothing_stays_the_users_when_a_later_charge_is_given_up(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ONE)
    light_platform.calls(MARCH, (ONE, -500))
    light_platform.bill(MARCH)
    light_platform.calls(MARCH, (ONE, 800))
    light_platform.calls(APRIL, (ONE, 900))
    light_platform.bill(APRIL)
    assert late(light_platform, APRIL) == [("late_usage", 800)]

    light_platform.void(APRIL, ONE, for_good=True)
    light_platform.calls(MAY, (ONE, 2000))
    light_platform.bill(MAY)

    assert light_platform.lines(MAY, ONE) == [("usage", 2000), ("credit", -500)]
    must_agree(light_platform, MARCH, APRIL, MAY)


def test_below_zero_what_refunds_came_to_is_given_back_and_no_more(light_platform: SmallPlatform) -> None:
    billed(light_platform)
    light_platform.calls(MARCH, (ONE, -1200))
    light_platform.bill(APRIL)
    void_for_good(light_platform)

    light_platform.calls(MAY, (ONE, 2000))
    light_platform.bill(MAY)

    # Of the 1200 that April left, 1000 were for a bill that nobody pays.
    assert light_platform.lines(MAY, ONE) == [("usage", 2000), ("adjustment", 1000), ("credit", -1200)]
    must_agree(light_platform, MARCH, APRIL, MAY)


def with_fees(platform: SmallPlatform, *discounts: str) -> SmallPlatform:
    """Add what plans may have beside an allowance, and discounts of the user in percent."""
    names = ("monthly_fee_cents", "minimum_cents", "usage_discount_percent")
    platform.sql(
        *(f"ALTER TABLE billing_plans ADD COLUMN {name} bigint" for name in names),
        "CREATE TABLE billing_discounts (name text, user_id text, percent numeric, starts_at, ends_at)",
        *(
            f"INSERT INTO billing_discounts (name, user_id, percent) VALUES ('Partner', '{ONE}', {each})"
            for each in discounts
        ),
    )
    return platform


PLANS = {
    "allowance": ({"included_cents": 300}, 600),
    "minimum": ({"minimum_cents": 700}, 300),
    "discount": ({"usage_discount_percent": 50}, 300),
    "fee": ({"monthly_fee_cents": 250}, 600),
}


@pytest.mark.parametrize("discount", [(), ("10",)], ids=["", "less a tenth"])
@pytest.mark.parametrize(("plan", "back"), PLANS.values(), ids=PLANS)
def test_it_is_rated_by_the_plan_of_its_month(
    light_platform: SmallPlatform, plan: dict[str, int], back: int, discount: tuple[str, ...]
) -> None:
    billed(with_fees(light_platform, *discount), **plan)
    cost(light_platform, 400)
    light_platform.sql("UPDATE billing_accounts SET plan_id = NULL", "DELETE FROM billing_discounts")
    light_platform.calls(APRIL, (ONE, 900))
    light_platform.bill(APRIL)
    back -= back // 10 if discount else 0
    assert late(light_platform, APRIL) == [("late_usage", -back)]

    void_for_good(light_platform)
    light_platform.bill(MAY)

    assert light_platform.lines(MAY, ONE) == [("adjustment", back)]
    must_agree(light_platform, MARCH, APRIL, MAY)


def test_a_discount_of_a_fee_that_is_given_up_is_no_credit(light_platform: SmallPlatform) -> None:
    billed(with_fees(light_platform, "50"), 100, monthly_fee_cents=1000)
    assert light_platform.bill_of(MARCH, ONE).total_cents == 550
    void_for_good(light_platform)

    light_platform.calls(MARCH, (ONE, 60))
    light_platform.bill(APRIL)
    cost(light_platform, 0, before=100)
    light_platform.bill(MAY)

    # Half of what came is due; of what went, nothing was paid.
    assert late(light_platform, APRIL) == [("late_usage", 30)]
    assert late(light_platform, MAY) == [("late_usage", 0)]
    must_agree(light_platform, MARCH, APRIL, MAY)


def test_a_month_that_is_billed_again_after_late_lines_is_rated_by_its_own_plan(
    light_platform: SmallPlatform,
) -> None:
    billed(with_fees(light_platform), minimum_cents=2000)
    light_platform.calls(MARCH, (ONE, 300))
    light_platform.bill(APRIL)
    light_platform.void(MARCH, ONE)
    light_platform.calls(MARCH, (ONE, 70))

    light_platform.bill(MARCH)

    # 1370 of usage in all, up to the minimum.
    assert light_platform.bill_of(MARCH, ONE).total_cents == 2000
    must_agree(light_platform, MARCH, APRIL)
