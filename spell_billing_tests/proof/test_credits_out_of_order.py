"""A month that is billed after a later one uses no credit that the later months left and used themselves."""

from typing import Any

import pytest

from spell_billing.core.month import Month
from spell_billing.core.terms import CARRY, Policy
from spell_billing_tests.proof.small_platform import SmallPlatform

MARCH, APRIL, MAY, JUNE = (Month(2025, month) for month in range(3, 7))
ANNA, BERT = "anna", "bert"


def live_through(platform: SmallPlatform, usage: tuple[int, int, int], **account: Any) -> None:
    """Bill three months of two users."""
    platform.accounts(ANNA, BERT, **account)
    for month, cents in zip((MARCH, APRIL, MAY), usage, strict=True):
        platform.calls(month, (ANNA, cents), (BERT, 1_000))
        platform.bill(month)


def charged(platform: SmallPlatform, user: str) -> int:
    """Return what all standing invoices of a user come to."""
    return sum(each.total_cents for each in platform.standing() if each.metadata["spell_user_id"] == user)


def bill_on(platform: SmallPlatform, cents: int) -> None:
    """Bill June, and have all months agree."""
    platform.calls(JUNE, (ANNA, cents), (BERT, 1_000))
    platform.bill(JUNE)
    for month in (MARCH, APRIL, MAY, JUNE):
        platform.must_agree(month)


@pytest.mark.both_databases
def test_a_month_billed_again_after_a_later_credit_was_used(platform: SmallPlatform) -> None:
    live_through(platform, (1_000, -500, 1_000))
    platform.void(MARCH, ANNA)
    platform.bill(MARCH)

    assert platform.lines(MARCH, ANNA) == [("usage", 1_000)]
    bill_on(platform, 700)
    assert charged(platform, ANNA) == 1_000 - 500 + 1_000 + 700
    assert charged(platform, BERT) == 4_000


def test_a_bill_that_failed_until_a_later_credit_was_used(light_platform: SmallPlatform) -> None:
    platform = light_platform
    platform.accounts(ANNA, BERT)
    platform.sql("UPDATE billing_accounts SET stripe_customer_id = NULL WHERE user_id = 'anna'")
    platform.calls(MARCH, (ANNA, 1_000), (BERT, 1_000))
    platform.bill(MARCH)
    platform.sql("UPDATE billing_accounts SET stripe_customer_id = 'cus_anna' WHERE user_id = 'anna'")
    for month, cents in ((APRIL, -500), (MAY, 45)):
        platform.calls(month, (ANNA, cents), (BERT, 1_000))
        platform.bill(month)
    platform.bill(MARCH)

    assert platform.lines(MARCH, ANNA) == [("usage", 1_000)]
    bill_on(platform, 700)
    assert charged(platform, ANNA) == 1_000 - 500 + 45 + 700


def test_a_credit_that_a_later_month_left_over_is_not_for_an_earlier_one(
    light_platform: SmallPlatform,
) -> None:
    live_through(light_platform, (1_000, -500, 200))
    light_platform.void(MARCH, ANNA)
    light_platform.bill(MARCH)

    assert light_platform.lines(MARCH, ANNA) == [("usage", 1_000)]
    bill_on(light_platform, 700)
    assert charged(light_platform, ANNA) == 1_000 - 500 + 200 + 700


@pytest.mark.parametrize("month", [MARCH, APRIL, MAY])
def test_any_month_is_billed_again_where_small_amounts_were_carried(
    light_platform: SmallPlatform, month: Month
) -> None:
    platform = light_platform
    platform.policy = Policy(small_amounts=CARRY, minimum_cents=50)
    live_through(platform, (1_000, 30, 1_000))
    if month != APRIL:
        platform.void(month, ANNA)
    platform.bill(month)

    bill_on(platform, 700)
    assert charged(platform, ANNA) == 1_000 + 30 + 1_000 + 700


@pytest.mark.parametrize("currency", ["isk", "kwd"])
@pytest.mark.parametrize("month", [MARCH, APRIL, MAY])
def test_any_month_is_billed_again_where_the_currency_left_remainders(
    light_platform: SmallPlatform, month: Month, currency: str
) -> None:
    platform = light_platform
    live_through(platform, (10_055, 10_000, 10_050), currency=currency)
    platform.void(month, ANNA)
    platform.bill(month)

    bill_on(platform, 10_095)
    due = 10_055 + 10_000 + 10_050 + 10_095
    assert 0 <= due - charged(platform, ANNA) < 100
