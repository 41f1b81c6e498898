"""Stripe's rules of currencies: what may not be charged is left for the next invoice, and no cent is lost."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.drafting import Account, Credit, draft_invoice
from spell_billing.core.lines import shown_lines
from spell_billing.core.money import format_money, step_cents
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.terms import Policy
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform

USER = "user-0001"


@pytest.mark.parametrize(
    ("currency", "cents", "charged"),
    [
        ("kwd", 1_234, [1_230, 1_230, 1_240]),
        ("isk", 12_345, [12_300, 12_300, 12_400]),
        ("ugx", 12_345, [12_300, 12_300, 12_400]),
    ],
)
def test_what_the_currency_does_not_allow_is_left_for_the_next_invoice(
    platform: SmallPlatform, currency: str, cents: int, charged: list[int]
) -> None:
    platform.accounts(USER, currency=currency)
    for month in (MARCH, APRIL, MAY):
        platform.calls(month, (USER, cents))
        platform.bill(month)
        platform.must_agree(month)

    invoices = platform.standing()

    assert [invoice.total_cents for invoice in invoices] == charged
    for invoice in invoices:
        assert all(line.amount_cents % step_cents(currency) == 0 for line in invoice.lines)
    assert f"{format_money(charged[0], currency)})" in str(invoices[0].lines[0].description)
    left = platform.bill_of(MAY, USER).carried_cents
    assert sum(charged) - left == 3 * cents


@pytest.mark.parametrize(
    ("policy", "beside"),
    [(Policy("on"), {"double_tax": "15"}), (Policy(discounts=True), {"double_coupon": "15"})],
)
def test_tax_or_a_coupon_that_stripe_cannot_charge_fails_with_what_to_do(
    light_platform: SmallPlatform, policy: Policy, beside: dict[str, str]
) -> None:
    platform = light_platform
    platform.policy = policy
    platform.accounts(USER, currency="kwd")
    platform.double.add_customer(f"cus_{USER}", metadata=beside)
    platform.calls(MARCH, (USER, 1_010))
    platform.bill(MARCH)
    bill = platform.bill_of(MARCH, USER)
    assert (bill.state, bill.reason) == (State.FAILED, Reason.OFF_STEP)
    assert bill.message == "The amount must be a multiple of 10 in kwd."

    platform.settle(MARCH, USER, "billed-by-hand")

    assert platform.status(MARCH) == "billed"


def test_a_large_amount_of_a_currency_with_small_units_is_billed(platform: SmallPlatform) -> None:
    platform.accounts(USER, currency="idr")
    platform.calls(MARCH, (USER, 15_000_000_000))

    platform.bill(MARCH)

    assert [invoice.total_cents for invoice in platform.standing()] == [15_000_000_000]
    platform.must_agree(MARCH)


def test_a_remainder_alone_makes_no_bill_and_is_charged_with_the_next_usage(platform: SmallPlatform) -> None:
    platform.accounts(USER, currency="kwd")
    platform.calls(MARCH, (USER, 1_009))
    platform.calls(MAY, (USER, 1_001))
    for month in (MARCH, APRIL, MAY):
        platform.bill(month)

    assert platform.generations(APRIL, USER) == []
    assert platform.lines(MAY, USER) == [("usage", 1_001), ("brought_forward", 9)]
    assert platform.bill_of(MAY, USER).total_cents == 1_010
    platform.must_agree(MAY)


def test_a_remainder_of_an_altered_ledger_is_told(platform: SmallPlatform) -> None:
    platform.accounts(USER, currency="kwd")
    for month in (MARCH, APRIL):
        platform.calls(month, (USER, 1_234))
        platform.bill(month)
    platform.sql("UPDATE ledger_invoices SET carried_cents = 0 WHERE month = '2025-03'")

    assert (USER, "credit_not_granted") in platform.findings(APRIL)
    assert (USER, "lines_do_not_add_up") in platform.findings(MARCH)


@pytest.mark.parametrize("april", [12_345, 12_355], ids=["leaves more", "leaves nothing"])
@pytest.mark.parametrize("again", [None, 12_320], ids=["for good", "billed again for less"])
def test_a_remainder_that_a_later_invoice_charged_goes_back_when_its_own_invoice_is_void(
    light_platform: SmallPlatform, april: int, again: int | None
) -> None:
    platform = light_platform
    platform.accounts(USER, currency="isk")
    for month, cents in ((MARCH, 12_345), (APRIL, april)):
        platform.calls(month, (USER, cents))
        platform.bill(month)
    assert ("brought_forward", 45) in platform.lines(APRIL, USER)

    platform.void(MARCH, USER, for_good=again is None)
    if again is not None:
        platform.calls(MARCH, (USER, again - 12_345))
        platform.bill(MARCH)
    platform.must_agree(APRIL)
    platform.calls(MAY, (USER, 12_345))
    platform.bill(MAY)

    charged = sum(invoice.total_cents for invoice in platform.standing())
    left = platform.bill_of(MAY, USER).carried_cents
    assert charged - left == (again or 0) + april + 12_345
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_a_remainder_of_a_void_invoice_that_is_charged_afterwards_is_told(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(USER, currency="isk")
    for month in (MARCH, APRIL):
        light_platform.calls(month, (USER, 12_345))
        light_platform.bill(month)
    light_platform.void(MARCH, USER, for_good=True)

    light_platform.sql(
        "UPDATE ledger_invoices SET created_at = '2999-01-01 00:00:00' WHERE month = '2025-04'"
    )

    assert light_platform.findings(APRIL) == [(USER, "credit_not_granted")]


@given(
    currency=st.sampled_from(["kwd", "isk", "usd", "jpy", "tnd"]),
    months=st.lists(st.integers(0, 50_000), min_size=1, max_size=8),
)
def test_over_any_months_all_usage_is_charged_but_less_than_one_step(
    currency: str, months: list[int]
) -> None:
    account, month, balance, charged = Account("cus_1", currency), Month(2025, 1), 0, 0
    for cents in months:
        credit = Credit(balance, currency) if balance else None
        draft = draft_invoice(
            month, USER, calls=1, usage_cents=Decimal(cents), account=account, credit=credit
        )
        balance += draft.carried_cents - draft.credit_applied_cents
        charged += draft.total_cents
        assert draft.total_cents % step_cents(currency) == 0
        assert sum(line.amount_cents for line in draft.lines) == draft.total_cents
        shown = shown_lines(draft.lines, currency)
        assert sum(line.amount_cents for line in shown) == draft.total_cents
        assert all(line.amount_cents % step_cents(currency) == 0 for line in shown)
        month = month.next()

    assert charged - balance == sum(months)
    assert -step_cents(currency) < balance <= 0
