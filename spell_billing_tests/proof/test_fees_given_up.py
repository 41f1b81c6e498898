"""A fee in advance on a bill that is given up, or paid after all: neither charged again nor paid out."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.core.terms import Policy
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, SmallPlatform
from spell_billing_tests.proof.test_fees_in_advance import IN_ADVANCE
from spell_billing_tests.proof.test_given_up_later import GIVEN_UP, become, never_paid, void_for_good
from spell_billing_tests.proof.test_plans import ONE, TWO, subscribe, with_plans

GiveUp = Callable[[SmallPlatform], None]
given_up_in_any_way = pytest.mark.parametrize("give_up", GIVEN_UP.values(), ids=GIVEN_UP)


@pytest.fixture
def ahead(light_platform: SmallPlatform) -> SmallPlatform:
    """A platform that charges fees in advance, with a user on a plan of 3,100 cents a month."""
    platform = with_plans(replace(light_platform, policy=IN_ADVANCE))
    platform.accounts(ONE, TWO)
    subscribe(platform, ONE, "basic", None, None)
    return platform


def ends(platform: SmallPlatform, on: str = "2025-04-01") -> None:
    platform.sql(f"UPDATE plan_subscriptions SET ends_at = '{on}'")


def given_back_then_given_up(platform: SmallPlatform) -> None:
    """Let April give back the fee that March charged for it, and March be void for good after that."""
    platform.bill(MARCH)
    ends(platform)
    platform.calls(APRIL, (ONE, 5_000))
    platform.bill(APRIL)
    void_for_good(platform)


def halved(platform: SmallPlatform, start: str, end: str | None = None) -> None:
    until = "NULL" if end is None else f"'{end}'"
    platform.sql(
        f"INSERT INTO billing_discounts VALUES ('Half', '{ONE}', NULL, 50, NULL, '{start}', {until})"
    )


def fees(platform: SmallPlatform, month: Month) -> list[tuple[str, int, str]]:
    """Give the fees on the user's bill, with the month of each."""
    if not platform.generations(month, ONE):
        return []
    lines = platform.bill_of(month, ONE).parsed_lines
    return [(line.kind, line.amount_cents, line.usage_month) for line in lines if line.kind.startswith("fee")]


def charged(platform: SmallPlatform) -> int:
    """Add up what the user's invoices that stand charge, after coupons."""
    return sum(each.total_cents for each in platform.standing() if each.metadata["spell_user_id"] == ONE)


def all_agree(platform: SmallPlatform, *months: Month) -> None:
    for month in months:
        assert platform.reconcile(month).findings == [], month


@given_up_in_any_way
def test_a_fee_that_was_given_up_is_not_paid_out(ahead: SmallPlatform, give_up: GiveUp) -> None:
    ahead.calls(MARCH, (ONE, 410), (TWO, 100))
    ahead.bill(MARCH)
    give_up(ahead)
    ends(ahead)
    ahead.calls(APRIL, (TWO, 100))
    ahead.bill(APRIL)
    ahead.calls(MAY, (ONE, 5_000))
    ahead.bill(MAY)

    assert ahead.bill_of(MAY, ONE).total_cents == 5_000
    all_agree(ahead, MARCH, APRIL, MAY)


@given_up_in_any_way
def test_a_fee_that_was_given_up_is_not_charged_again_beyond_what_is_added(
    ahead: SmallPlatform, give_up: GiveUp
) -> None:
    ahead.bill(MARCH)
    give_up(ahead)
    ahead.sql("UPDATE plan_subscriptions SET plan_id = 'pro'")
    ahead.calls(APRIL, (ONE, 1_000))
    ahead.bill(APRIL)

    # Of the 6,200 that April costs now, 3,100 were given up.
    assert fees(ahead, APRIL)[0] == ("fee", 3_100, "2025-04")
    all_agree(ahead, MARCH, APRIL)


@given_up_in_any_way
def test_a_fee_that_was_given_back_and_never_paid_is_charged_once(
    ahead: SmallPlatform, give_up: GiveUp
) -> None:
    ahead.bill(MARCH)
    ends(ahead)
    ahead.calls(APRIL, (ONE, 5_000))
    ahead.bill(APRIL)
    assert ahead.bill_of(APRIL, ONE).total_cents == 1_900

    give_up(ahead)
    all_agree(ahead, APRIL)
    ahead.calls(MAY, (ONE, 100))
    ahead.bill(MAY)
    ahead.calls(JUNE, (ONE, 100))
    ahead.bill(JUNE)

    assert ahead.lines(MAY, ONE) == [("usage", 100), ("fee", 3_100), ("fee_note", 0)]
    assert ahead.lines(JUNE, ONE) == [("usage", 100)]
    all_agree(ahead, MARCH, APRIL, MAY, JUNE)


def test_a_correction_of_fees_that_no_bill_makes_is_named(ahead: SmallPlatform) -> None:
    given_back_then_given_up(ahead)

    # As if a month had been drafted since.
    ahead.sql("UPDATE ledger_months SET drafted_at = '2999-01-01 00:00:00' WHERE month = '2025-04'")

    assert ahead.findings(APRIL) == [(ONE, "plan_differs")]


@pytest.mark.parametrize("cents", [0, 1_000])
def test_a_bill_that_is_paid_after_all_gives_back_the_fee_of_a_plan_that_ended(
    ahead: SmallPlatform, cents: int
) -> None:
    ahead.bill(MARCH)
    never_paid(ahead)
    ends(ahead, "2025-04-16")
    ahead.calls(APRIL, (ONE, cents))
    ahead.bill(APRIL)
    assert [each for each in fees(ahead, APRIL) if each[1]] == []

    become(ahead, MARCH, State.PAID)
    ahead.calls(MAY, (ONE, 5_000))
    ahead.bill(MAY)
    ahead.calls(JUNE, (ONE, 100))
    ahead.bill(JUNE)

    assert ("fee", -1_550, "2025-04") in fees(ahead, MAY)
    assert fees(ahead, JUNE) == []
    all_agree(ahead, APRIL, MAY, JUNE)


def test_what_was_charged_for_a_fee_given_up_goes_back_once_its_bill_is_paid(ahead: SmallPlatform) -> None:
    ahead.bill(MARCH)
    ends(ahead)
    ahead.calls(APRIL, (ONE, 5_000))
    ahead.bill(APRIL)
    never_paid(ahead)
    ahead.bill(MAY)
    assert ("fee", 3_100, "2025-04") in fees(ahead, MAY)

    become(ahead, MARCH, State.PAID)
    ahead.calls(JUNE, (ONE, 5_000))
    ahead.bill(JUNE)

    assert ("fee", -3_100, "2025-04") in fees(ahead, JUNE)
    all_agree(ahead, APRIL, MAY, JUNE)


def test_what_a_voided_bill_gave_back_of_a_fee_is_left_for_a_later_one(ahead: SmallPlatform) -> None:
    ahead.bill(MARCH)
    ends(ahead)
    ahead.calls(APRIL, (ONE, 5_000))
    ahead.bill(APRIL)
    ahead.void(APRIL, ONE, for_good=True)
    ahead.calls(MAY, (ONE, 5_000))
    ahead.bill(MAY)

    assert ("fee", -3_100, "2025-04") in fees(ahead, MAY)
    assert charged(ahead) == 6_200 + 1_900
    all_agree(ahead, MARCH, APRIL, MAY)


def test_a_bill_that_corrects_fees_does_so_again_when_it_is_billed_again(ahead: SmallPlatform) -> None:
    given_back_then_given_up(ahead)
    ahead.calls(MAY, (ONE, 100))
    ahead.bill(MAY)
    first = ahead.lines(MAY, ONE)
    ahead.calls(JUNE, (ONE, 100))
    ahead.bill(JUNE)
    ahead.void(MAY, ONE)
    ahead.bill(MAY)

    assert ahead.lines(MAY, ONE) == first
    all_agree(ahead, MARCH, APRIL, MAY, JUNE)


def test_a_correction_of_fees_that_is_given_up_is_not_made_again(ahead: SmallPlatform) -> None:
    given_back_then_given_up(ahead)
    ahead.bill(MAY)
    ahead.void(MAY, ONE, for_good=True)
    ahead.calls(JUNE, (ONE, 100))
    ahead.bill(JUNE)

    assert fees(ahead, JUNE) == []
    all_agree(ahead, MARCH, APRIL, MAY, JUNE)


@pytest.mark.parametrize("minimum", [0, 4_000])
def test_a_fee_that_stands_keeps_its_discount_when_its_own_month_is_given_up(
    ahead: SmallPlatform, minimum: int
) -> None:
    ahead.sql(f"UPDATE billing_plans SET minimum_cents = {minimum} WHERE plan_id = 'basic'")
    halved(ahead, "2025-04-01", "2025-05-01")
    ahead.bill(MARCH)
    march = charged(ahead)
    ahead.calls(APRIL, (ONE, 2_310))
    ahead.bill(APRIL)
    ahead.void(APRIL, ONE, for_good=True)
    ends(ahead, "2025-05-01")
    ahead.calls(MAY, (ONE, 5_000))
    ahead.bill(MAY)
    ahead.bill(JUNE)

    assert ("fee", -1_550, "2025-04") in fees(ahead, MAY)
    assert charged(ahead) == march + 5_000 - 1_550
    all_agree(ahead, MARCH, APRIL, MAY)


@pytest.mark.parametrize(("cents", "due"), [(2_310, 1_000), (0, 0)])
def test_the_discount_on_a_fee_that_was_given_up_is_taken_off_nothing_else(
    ahead: SmallPlatform, cents: int, due: int
) -> None:
    halved(ahead, "2025-04-01")
    ahead.bill(MARCH)
    void_for_good(ahead)
    ahead.calls(APRIL, (ONE, cents))
    replace(ahead, policy=Policy()).bill(APRIL)

    assert charged(ahead) == due
    all_agree(ahead, MARCH, APRIL)
    ahead.void(APRIL, ONE, for_good=True) if due else None
    ends(ahead, "2025-05-01")
    ahead.calls(MAY, (ONE, 5_000))
    ahead.bill(MAY)

    # What late rows of April cost is not reckoned with the fee either.
    assert ahead.bill_of(MAY, ONE).total_cents == 2_500
    all_agree(ahead, MARCH, APRIL, MAY)
