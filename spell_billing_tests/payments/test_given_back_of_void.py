"""What was said of money that went back is about one invoice, and counts in amounts before tax and coupon."""

from dataclasses import replace

import pytest

from spell_billing.core.outcomes import Reason, State
from spell_billing.core.terms import ON, Policy
from spell_billing.ledger.rows import Actor, Change
from spell_billing_tests.payments.test_given_back_twice import let_go, lose_the_larger_row, say
from spell_billing_tests.payments.world import ONE, World
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY


@pytest.fixture
def unpaid(small_world: World) -> World:
    """Give a world in which ONE was billed $10.00 for March, and has not paid."""
    small_world.platform.calls(MARCH, (ONE, 400))
    small_world.bill(ONE, cards={ONE: "declined"}, cents=600)
    return small_world


def charged_cents(world: World) -> int:
    """Sum the invoices that stand, less what credit notes took off them."""
    standing = {each.id: each.total_cents for each in world.platform.standing()}
    notes = [each for each in world.double.state.credit_notes if each.invoice in standing]
    return sum(standing.values()) - sum(each.amount_cents for each in notes)


def test_a_correction_of_an_invoice_that_is_void_counts_no_more(unpaid: World) -> None:
    platform = unpaid.platform
    platform.credit(MARCH, ONE, 600)
    lose_the_larger_row(unpaid)
    platform.calls(APRIL, (ONE, 900))
    platform.bill(APRIL)
    say(unpaid, "correction")
    platform.bill(APRIL)
    assert charged_cents(unpaid) == 400 + 900

    platform.void(MARCH, ONE)
    platform.bill(MARCH)
    platform.calls(MAY, (ONE, 700))
    platform.bill(MAY)

    assert platform.bill_of(MARCH, ONE).total_cents == 400
    assert charged_cents(unpaid) == 400 + 900 + 700
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


@pytest.mark.parametrize("said", ["goodwill", "release"])
def test_goodwill_for_an_invoice_that_is_void_answers_nothing_of_the_next_one(
    unpaid: World, said: str
) -> None:
    platform = unpaid.platform
    platform.credit(MARCH, ONE, 300)
    if said == "goodwill":
        say(unpaid, said)
    else:
        platform.sql("UPDATE usage_counters SET cost_cents = 350 WHERE cost_cents = 400")
        platform.bill(APRIL)
        let_go(unpaid)
        platform.bill(APRIL)
    platform.void(MARCH, ONE)
    platform.bill(MARCH)
    platform.credit(MARCH, ONE, 300)
    lose_the_larger_row(unpaid)
    platform.calls(MAY, (ONE, 900))

    platform.bill(MAY)

    held = platform.bill_of(MAY, ONE)
    assert (held.state, held.reason) == (State.HELD, Reason.ALREADY_GIVEN_BACK)
    assert "$3.00 of the invoice of 2025-03 went back" in str(held.message)
    assert say(unpaid, "correction")[:2] == (300, 300)
    platform.bill(MAY)
    for month in (MARCH, MAY):
        platform.must_agree(month)


def test_what_was_corrected_of_an_invoice_that_is_then_given_up_is_given_up_once(unpaid: World) -> None:
    platform = unpaid.platform
    platform.credit(MARCH, ONE, 600)
    lose_the_larger_row(unpaid)
    platform.calls(APRIL, (ONE, 900))
    platform.bill(APRIL)
    say(unpaid, "correction")
    platform.bill(APRIL)
    with unpaid.ledger() as ledger, ledger.session(MARCH, Actor("test")) as session:
        bill = ledger.bills_of_user(MARCH, ONE)[-1]
        session.apply([Change(bill, replace(bill, state=State.UNCOLLECTIBLE), "followed")])
    platform.bill(MAY)
    platform.calls(MARCH, (ONE, 600))
    platform.bill(JUNE)

    # $4.00 were given up, and nothing else: what comes back is due.
    assert not platform.generations(MAY, ONE)
    assert platform.lines(JUNE, ONE) == [("late_usage", 600)]
    for month in (APRIL, JUNE):
        platform.must_agree(month)


AMOUNTS = [(714, 600, 900), (595, 500, 800), (1190, 1000, 900)]
"""What went back of $11.90 at Stripe, what that is without 19 % of tax, and what April then charges."""


@pytest.mark.parametrize(("gross_cents", "net_cents", "april_cents"), AMOUNTS)
def test_what_went_back_with_tax_counts_without_it(
    small_world: World, gross_cents: int, net_cents: int, april_cents: int
) -> None:
    platform = small_world.platform
    platform.policy = Policy(ON)
    platform.accounts(ONE)
    platform.double.add_customer(f"cus_{ONE}", metadata={"double_tax": "19"})
    platform.calls(MARCH, (ONE, 400), (ONE, 600))
    platform.bill(MARCH)
    platform.credit(MARCH, ONE, gross_cents)
    lose_the_larger_row(small_world)
    platform.calls(APRIL, (ONE, 900))
    platform.bill(APRIL)
    assert platform.bill_of(APRIL, ONE).reason is Reason.ALREADY_GIVEN_BACK

    assert say(small_world, "correction")[:2] == (net_cents, min(net_cents, 600))
    platform.bill(APRIL)

    assert platform.bill_of(APRIL, ONE).total_cents == april_cents
    for month in (MARCH, APRIL):
        platform.must_agree(month)


def test_what_went_back_of_an_invoice_with_a_coupon_counts_as_before_it(small_world: World) -> None:
    platform = small_world.platform
    platform.policy = Policy(discounts=True)
    platform.accounts(ONE)
    platform.double.add_customer(f"cus_{ONE}", metadata={"double_coupon": "50"})
    platform.calls(MARCH, (ONE, 400), (ONE, 600))
    platform.bill(MARCH)
    platform.credit(MARCH, ONE, 300)
    lose_the_larger_row(small_world)
    platform.calls(APRIL, (ONE, 900))
    platform.bill(APRIL)

    assert say(small_world, "correction")[:2] == (600, 600)
    platform.bill(APRIL)

    assert platform.bill_of(APRIL, ONE).total_cents == 900
    for month in (MARCH, APRIL):
        platform.must_agree(month)
