"""What one month leaves to the others: adjustments, late usage, credits; no cent twice, none lost."""

from decimal import Decimal
from itertools import permutations

import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.databases import parse_database_url
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.source import open_usage_source
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, SmallPlatform

ONE, TWO = "user-0001", "user-0002"
MONTHS = (MARCH, APRIL, MAY)
ORDERS = list(permutations(MONTHS))
SOME_ORDERS = [ORDERS[0], ORDERS[3], ORDERS[5]]


def billed_cents(platform: SmallPlatform) -> int:
    return sum(each.total_cents for each in platform.standing())


def billed_usage(platform: SmallPlatform, user: str) -> Decimal:
    """Sum the exact usage behind every line of the user's standing invoices."""
    return sum(
        (
            Decimal(line.metadata["spell_usage_cents"])
            for invoice in platform.standing()
            if invoice.metadata["spell_user_id"] == user
            for line in invoice.lines
        ),
        Decimal(0),
    )


def adopt_less(platform: SmallPlatform, *, late_cents: int = 250) -> None:
    """Bill March, lose the ledger, and freeze March anew with more rows: the smaller invoice is adopted."""
    platform.calls(MARCH, (ONE, 1000), (TWO, 70))
    platform.bill(MARCH)
    platform.lose_the_ledger()
    platform.calls(MARCH, (ONE, late_cents), (ONE, 5))
    platform.bill(MARCH)
    bill = platform.bill_of(MARCH, ONE)
    assert (bill.state, bill.total_cents) == ("finalized", 1000)
    assert (bill.unbilled_calls, bill.unbilled_usage_cents) == (2, Decimal(late_cents + 5))
    platform.must_agree(MARCH)


def test_what_an_adopted_invoice_left_out_is_adjusted_on_the_next_one_once(platform: SmallPlatform) -> None:
    platform.accounts(ONE, TWO)
    adopt_less(platform)
    platform.calls(APRIL, (ONE, 400), (TWO, 80))
    platform.calls(MAY, (ONE, 500))

    platform.bill(APRIL)
    platform.bill(MAY)

    assert [line.description for line in platform.bill_of(APRIL, ONE).parsed_lines] == [
        "Spell Platform API Usage - April 2025 (1 calls, $4.00)",
        "Adjustment - March 2025 (2 calls, $2.55)",
    ]
    assert platform.lines(APRIL, TWO) == [("usage", 80)]
    assert platform.lines(MAY, ONE) == [("usage", 500)]
    assert billed_cents(platform) == 1000 + 70 + 250 + 5 + 400 + 80 + 500
    for month in MONTHS:
        platform.must_agree(month)


def test_a_user_without_usage_later_is_adjusted_all_the_same(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, TWO)
    adopt_less(light_platform)
    light_platform.calls(APRIL, (TWO, 80))
    light_platform.bill(APRIL)
    assert light_platform.lines(APRIL, ONE) == [("adjustment", 255)]
    assert billed_usage(light_platform, ONE) == 1255
    light_platform.must_agree(APRIL)


def test_an_adjustment_on_an_invoice_that_was_voided_is_made_with_the_next_generation(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ONE, TWO)
    adopt_less(light_platform)
    light_platform.calls(APRIL, (ONE, 400))
    light_platform.calls(MAY, (ONE, 500))
    light_platform.bill(APRIL)
    light_platform.void(APRIL, ONE)
    light_platform.bill(APRIL)
    light_platform.bill(MAY)
    assert light_platform.lines(APRIL, ONE) == [("usage", 400), ("adjustment", 255)]
    assert light_platform.lines(MAY, ONE) == [("usage", 500)]
    assert billed_usage(light_platform, ONE) == 1000 + 255 + 400 + 500


def test_an_adjustment_takes_what_was_left_of_its_own_month_s_allowance(
    light_platform: SmallPlatform,
) -> None:
    light_platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 1100}])
    light_platform.accounts(ONE, plan_id="pro")
    light_platform.accounts(TWO)
    light_platform.calls(MARCH, (ONE, 1200))
    light_platform.bill(MARCH)
    light_platform.lose_the_ledger()
    light_platform.calls(MARCH, (ONE, -300))
    light_platform.bill(MARCH)
    light_platform.calls(APRIL, (ONE, 1500))
    light_platform.bill(APRIL)
    assert light_platform.lines(MARCH, ONE) == [("usage", 1200), ("included", -1100)]
    assert light_platform.lines(APRIL, ONE) == [("usage", 1500), ("included", -1100), ("adjustment", -100)]
    assert billed_cents(light_platform) == 100 + 300


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "-".join(map(str, order)))
def test_whatever_the_order_of_billing_every_call_is_billed_once(
    light_platform: SmallPlatform, order: tuple[Month, ...]
) -> None:
    light_platform.accounts(ONE, TWO)
    used = 0
    for index, month in enumerate(MONTHS):
        light_platform.calls(month, (ONE, 1000 + index), (TWO, 100))
        used += 1000 + index
    for month in order:
        light_platform.bill(month)
        light_platform.calls(month, (ONE, 30 + month.month))
        used += 30 + month.month
    light_platform.calls(JUNE, (ONE, 1))

    light_platform.bill(JUNE)

    assert all(line.amount_cents > 0 for invoice in light_platform.standing() for line in invoice.lines), (
        "usage was billed twice, and taken off again"
    )
    assert billed_usage(light_platform, ONE) == used + 1
    assert billed_usage(light_platform, TWO) == 300
    assert billed_cents(light_platform) == used + 301
    for month in (*MONTHS, JUNE):
        light_platform.must_agree(month)


@pytest.mark.parametrize("order", SOME_ORDERS, ids=lambda order: "-".join(map(str, order)))
def test_an_adjustment_is_made_once_whatever_the_order_of_billing(
    light_platform: SmallPlatform, order: tuple[Month, ...]
) -> None:
    light_platform.accounts(ONE, TWO)
    for month in MONTHS:
        light_platform.calls(month, (ONE, 1000))
    light_platform.bill(MARCH)
    light_platform.lose_the_ledger()
    light_platform.calls(MARCH, (ONE, 250))
    for month in order:
        light_platform.bill(month)
    light_platform.calls(JUNE, (ONE, 1))
    light_platform.bill(JUNE)
    kinds = [kind for month in (*MONTHS, JUNE) for kind, _ in light_platform.lines(month, ONE)]
    assert kinds.count("adjustment") == 1
    assert billed_usage(light_platform, ONE) == 3251
    for month in (*MONTHS, JUNE):
        light_platform.must_agree(month)


@pytest.mark.both_databases
def test_a_disaster_that_takes_ledger_and_store_loses_and_doubles_no_late_usage(
    platform: SmallPlatform,
) -> None:
    platform.accounts(ONE, TWO)
    platform.calls(MARCH, (ONE, 100), (TWO, 1))
    platform.bill(MARCH)
    platform.calls(MARCH, (ONE, 42), (TWO, 8))
    platform.calls(APRIL, (ONE, 200))
    platform.bill(APRIL)
    assert platform.lines(APRIL, ONE) == [("usage", 200), ("late_usage", 42)]
    assert platform.lines(APRIL, TWO) == [("late_usage", 8)]
    before = billed_cents(platform)
    platform.lose_the_ledger()
    platform.store_path = platform.store_path.with_name("another-store")

    platform.bill(MARCH)
    platform.bill(APRIL)
    assert billed_cents(platform) == before == 351
    platform.calls(MAY, (ONE, 300))
    platform.bill(MAY)

    assert platform.lines(MAY, ONE) == [("usage", 300)]
    assert billed_usage(platform, ONE) == 642
    assert billed_usage(platform, TWO) == 9
    for month in MONTHS:
        platform.must_agree(month)


@pytest.mark.both_databases
def test_a_month_is_not_frozen_where_another_store_has_other_usage_of_a_billed_one(
    platform: SmallPlatform,
) -> None:
    platform.accounts(ONE, TWO)
    platform.calls(MARCH, (ONE, 100), (TWO, 1))
    platform.bill(MARCH)
    platform.calls(MARCH, (ONE, 42))
    own = platform.store_path
    platform.store_path = own.with_name("another-store")
    aggregate(platform.store.freeze(open_usage_source(parse_database_url(platform.url, setting="x")), MARCH))
    platform.calls(APRIL, (ONE, 200))

    with pytest.raises(UsageError, match="is not what 2025-03 was billed from: it has 3 calls of 143 cents"):
        platform.bill(APRIL)

    platform.store_path = own
    platform.bill(APRIL)
    assert platform.lines(APRIL, ONE) == [("usage", 200), ("late_usage", 42)]


def test_late_usage_that_an_adopted_invoice_lacks_is_billed_later(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, TWO)
    light_platform.calls(MARCH, (ONE, 100))
    light_platform.calls(APRIL, (ONE, 200))
    light_platform.bill(MARCH)
    light_platform.bill(APRIL)
    light_platform.sql(
        "DELETE FROM ledger_invoices WHERE month = '2025-04'",
        "DELETE FROM ledger_months WHERE month = '2025-04'",
    )
    light_platform.calls(MARCH, (ONE, 42), (TWO, 8))

    light_platform.bill(APRIL)
    light_platform.calls(MAY, (ONE, 300))
    light_platform.bill(MAY)

    assert light_platform.lines(MAY, ONE) == [("usage", 300), ("adjustment", 42)]
    assert billed_usage(light_platform, ONE) == 642
    assert billed_usage(light_platform, TWO) == 8
    light_platform.bill(JUNE)
    assert billed_usage(light_platform, ONE) == 642
    for month in MONTHS:
        light_platform.must_agree(month)


@pytest.mark.parametrize("order", SOME_ORDERS, ids=lambda order: "-".join(map(str, order)))
def test_a_credit_is_applied_once_whatever_the_order_of_billing(
    light_platform: SmallPlatform, order: tuple[Month, ...]
) -> None:
    light_platform.accounts(ONE)
    light_platform.calls(MARCH, (ONE, -500))
    light_platform.calls(APRIL, (ONE, 300))
    light_platform.calls(MAY, (ONE, 400))
    for month in order:
        light_platform.bill(month)
    light_platform.calls(JUNE, (ONE, 1000))
    light_platform.bill(JUNE)
    bills = [light_platform.bill_of(month, ONE) for month in (*MONTHS, JUNE)]
    assert sum(bill.credit_applied_cents for bill in bills) == bills[0].carried_cents == 500
    assert billed_cents(light_platform) == -500 + 300 + 400 + 1000
    for month in (*MONTHS, JUNE):
        light_platform.must_agree(month)


def test_a_credit_in_another_currency_holds_the_user_until_it_is_mended(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ONE, TWO)
    light_platform.calls(MARCH, (ONE, -500))
    light_platform.bill(MARCH)
    light_platform.sql("UPDATE billing_accounts SET currency = 'eur' WHERE user_id = 'user-0001'")
    light_platform.calls(APRIL, (ONE, 900), (TWO, 80))

    light_platform.bill(APRIL)

    held = light_platform.bill_of(APRIL, ONE)
    assert (held.state, held.reason) == ("held", "currency_changed")
    assert [each.total_cents for each in light_platform.standing()] == [80]
    assert light_platform.findings(APRIL) == [(ONE, "not_invoiced")]
    light_platform.sql("UPDATE billing_accounts SET currency = 'usd'")
    light_platform.bill(APRIL)
    assert light_platform.lines(APRIL, ONE) == [("usage", 900), ("credit", -500)]
    light_platform.must_agree(APRIL)


def test_a_failed_bill_keeps_its_late_usage_and_credit_until_it_is_billed(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ONE)
    light_platform.calls(MARCH, (ONE, 100))
    light_platform.bill(MARCH)
    light_platform.calls(MARCH, (ONE, 42))
    light_platform.calls(APRIL, (ONE, 200))
    light_platform.sql("UPDATE billing_accounts SET stripe_customer_id = NULL")
    light_platform.bill(APRIL)
    assert light_platform.bill_of(APRIL, ONE).reason == "no_stripe_customer"
    light_platform.sql("UPDATE billing_accounts SET stripe_customer_id = 'cus_user-0001'")
    light_platform.calls(MAY, (ONE, 300))
    light_platform.bill(MAY)
    light_platform.bill(APRIL)
    assert light_platform.lines(APRIL, ONE) == [("usage", 200), ("late_usage", 42)]
    assert light_platform.lines(MAY, ONE) == [("usage", 300)]
    assert billed_cents(light_platform) == 642
