"""Over a year with refunds, disputes, credits and small amounts all four sides agree; the money closes."""

from datetime import UTC, datetime
from typing import Any

import pytest

from spell_billing.core.month import Month
from spell_billing.ledger.charges import kept_of_months
from spell_billing_tests.payments.test_dashboard_in_any_order import kept_at_stripe
from spell_billing_tests.payments.world import ONE, THREE, TWO, World

MONTHS = [Month(2024, number) for number in range(4, 13)] + [Month(2025, number) for number in range(1, 4)]


def paid_invoice(world: World, user: str, month: Month) -> Any:
    bill = world.platform.bill_of(month, user)
    return world.double.state.invoices.get(str(bill.stripe_invoice_id))


def give_back(world: World, month: Month, number: int) -> None:
    """Do something else each month: refund, dispute, credit to card, balance or outside, or nothing."""
    invoice = paid_invoice(world, ONE, month)
    match number % 6:
        case 0:
            charge = next(each for each in world.double.state.charges if each.invoice == invoice.id)
            world.platform.person("POST", "/v1/refunds", {"charge": charge.id, "amount": 150})
        case 1:
            world.double.dispute(invoice.id, outcome="lost")
        case 2:
            world.double.dispute(invoice.id, outcome="won")
        case 3 | 4:
            share = "refund_amount" if number % 6 == 3 else "credit_amount"
            note = {"invoice": invoice.id, "amount": 200, share: 200}
            world.platform.person("POST", "/v1/credit_notes", note)


@pytest.mark.both_databases
def test_a_year_closes(world: World) -> None:
    world.platform.accounts(ONE, TWO, THREE)
    world.double.add_customer(f"cus_{TWO}", card="declined")
    for number, month in enumerate(MONTHS):
        world.clock.move_to(datetime(month.next().start.year, month.next().start.month, 2, tzinfo=UTC))
        world.platform.calls(month, (ONE, 1000 + number), (TWO, 500), (THREE, 20))
        world.platform.bill(month)
        world.advance()
        world.tick()
        give_back(world, month, number)
        world.tick()

    received = kept = 0
    for month in MONTHS:
        (money,) = world.platform.must_agree(month).money
        with world.ledger() as ledger, ledger.reading() as connection:
            (known,) = kept_of_months(connection, [month])[str(month)]
        assert (money.paid_cents, money.refunded_cents, money.disputed_cents) == (
            known.paid_cents,
            known.refunded_cents,
            known.disputed_cents,
        )
        received, kept = received + money.paid_cents, kept + known.kept_cents
    assert kept == kept_at_stripe(world)
    charged = sum(each.total_cents for each in world.platform.standing())
    assert charged == len(MONTHS) * (1000 + 500 + 20) + sum(range(len(MONTHS)))
    due = sum(each.amount_remaining_cents for each in world.platform.standing())
    balances = sum(sum(each.balances_cents.values()) for each in world.double.state.customers)
    credited = 200 * sum(number % 6 == 4 for number in range(len(MONTHS)))
    # All that was charged is received, still due, or on a balance; what was credited there is taken off.
    assert charged == received + due + balances + credited
