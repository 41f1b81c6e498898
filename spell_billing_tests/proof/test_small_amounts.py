"""Small amounts over months: none charged twice or given back, and reconciliation to the cent."""

from dataclasses import replace
from typing import Any

import pytest

from spell_billing.core.terms import CARRY, FORGIVE, Policy
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, SmallPlatform

ONE, TWO = "user-0001", "user-0002"


def under(platform: SmallPlatform, small_amounts: str) -> SmallPlatform:
    return replace(platform, policy=Policy(small_amounts=small_amounts))


def verdict(platform: SmallPlatform, month: Any, user: str) -> tuple[str, str | None, int]:
    bill = platform.bill_of(month, user)
    return bill.state.value, bill.reason.value if bill.reason else None, bill.carried_cents


@pytest.mark.both_databases
def test_small_amounts_add_up_until_they_are_worth_an_invoice(platform: SmallPlatform) -> None:
    platform = under(platform, CARRY)
    platform.accounts(ONE, TWO)
    platform.calls(MARCH, (ONE, 20), (TWO, 900))
    platform.calls(APRIL, (ONE, 25))
    platform.calls(JUNE, (ONE, 30))
    for month in (MARCH, APRIL, MAY, JUNE):
        platform.bill(month)

    assert verdict(platform, MARCH, ONE) == ("skipped", "small_amount_carried", -20)
    assert platform.lines(APRIL, ONE) == [("usage", 25), ("brought_forward", 20), ("remainder", -45)]
    assert platform.lines(JUNE, ONE) == [("usage", 30), ("brought_forward", 45)]
    assert [each.total_cents for each in platform.standing()] == [900, 75]
    assert platform.explain(MARCH, ONE)["answer"] == (
        "No invoice of $0.00: skipped, small_amount_carried. "
        "The total is below MINIMUM_INVOICE_CENTS; it is charged with the user's next invoice."
    )
    for month in (MARCH, APRIL, JUNE):
        assert platform.status(month) == "billed"
        platform.must_agree(month)


@pytest.mark.both_databases
def test_what_was_forgiven_is_neither_charged_again_nor_given_back(platform: SmallPlatform) -> None:
    platform = under(platform, FORGIVE)
    platform.accounts(ONE, TWO)
    platform.calls(MARCH, (ONE, 30), (TWO, 40))
    platform.bill(MARCH)
    assert verdict(platform, MARCH, ONE) == ("skipped", "small_amount_forgiven", 0)
    assert platform.lines(MARCH, ONE) == [("usage", 30), ("forgiven", -30)]

    platform.calls(MARCH, (ONE, 100), (TWO, -25))
    platform.calls(APRIL, (ONE, 500), (TWO, 500))
    platform.bill(APRIL)
    platform.calls(MARCH, (ONE, -110))
    platform.calls(MAY, (ONE, 500), (TWO, 10))
    platform.bill(MAY)

    assert platform.lines(APRIL, ONE) == [("usage", 500), ("late_usage", 100)]
    assert platform.lines(APRIL, TWO) == [("usage", 500), ("late_usage", 0)]
    # Of March 100 cents were charged, and 20 are its rating now: nobody pays more.
    assert platform.lines(MAY, ONE) == [("usage", 500), ("late_usage", -80)]
    assert platform.lines(MAY, TWO) == [("usage", 10), ("forgiven", -10)]
    assert sum(each.total_cents for each in platform.standing()) == 600 + 500 + 420
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_late_usage_that_was_forgiven_with_a_small_bill_stays_forgiven(light_platform: SmallPlatform) -> None:
    platform = under(light_platform, FORGIVE)
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 100))
    platform.bill(MARCH)
    platform.calls(MARCH, (ONE, 12))
    platform.calls(APRIL, (ONE, 8))
    platform.bill(APRIL)
    platform.calls(MARCH, (ONE, -112))
    platform.calls(MAY, (ONE, 300))
    platform.bill(MAY)

    assert platform.lines(APRIL, ONE)[2:] == [("forgiven", -8), ("forgiven", -12)]
    assert platform.lines(MAY, ONE) == [("usage", 300), ("late_usage", -100)]
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_a_bill_stands_as_its_own_setting_made_it(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, TWO)
    light_platform.calls(MARCH, (ONE, 20), (TWO, 900))
    under(light_platform, CARRY).bill(MARCH)
    light_platform.calls(APRIL, (ONE, 20))
    under(light_platform, FORGIVE).bill(APRIL)
    light_platform.calls(MAY, (ONE, 20))
    light_platform.bill(MARCH)
    light_platform.bill(MAY)

    assert verdict(light_platform, MARCH, ONE) == ("skipped", "small_amount_carried", -20)
    assert light_platform.lines(APRIL, ONE) == [("usage", 20), ("forgiven", -20)]
    assert light_platform.lines(MAY, ONE) == [("usage", 20), ("brought_forward", 20)]
    for month in (MARCH, APRIL, MAY):
        light_platform.must_agree(month)
    light_platform.sql("UPDATE ledger_invoices SET state = 'paid' WHERE month = '2025-04'")
    assert (ONE, "lines_do_not_add_up") in light_platform.findings(APRIL)
