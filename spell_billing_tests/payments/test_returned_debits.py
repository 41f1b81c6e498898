"""A bank debit that comes back opens its invoice again: known in whatever order the ledger hears of it."""

from datetime import timedelta

import pytest

from spell_billing.ledger.charges import Kept
from spell_billing.payments import follow, places
from spell_billing_tests.payments.test_money_back import kept
from spell_billing_tests.payments.world import ONE, TWO, World
from spell_billing_tests.proof.small_platform import MARCH


@pytest.fixture
def unread(world: World) -> World:
    """Give a world in which ONE and TWO paid $10.00 each, and the ledger has not heard of it."""
    world.bill(ONE, TWO)
    world.tick()
    world.clock.shift(60)
    world.advance()
    world.clock.shift(3 * 86_400)
    return world


@pytest.mark.both_databases
def test_paid_and_returned_between_two_ticks(unread: World) -> None:
    unread.double.return_payment(unread.invoice_id(ONE))

    unread.tick()

    assert (unread.state(ONE), unread.state(TWO)) == ("payment_failed", "paid")
    assert kept(unread) == Kept("usd", paid_cents=1000, due_cents=1000)


def test_the_return_is_heard_before_the_payment(unread: World, monkeypatch: pytest.MonkeyPatch) -> None:
    unread.double.return_payment(unread.invoice_id(ONE))
    monkeypatch.setattr(places, "PAGE", 1)
    monkeypatch.setattr(follow, "EVENT_PAGES", 1)

    while "older events" in unread.tick().more:
        pass

    assert (unread.state(ONE), unread.state(TWO)) == ("payment_failed", "paid")
    assert kept(unread) == Kept("usd", paid_cents=1000, due_cents=1000)


def test_paid_returned_and_given_up_between_two_ticks(unread: World) -> None:
    unread.double.return_payment(unread.invoice_id(ONE))
    unread.clock.shift(86_400)
    unread.platform.person("POST", f"/v1/invoices/{unread.invoice_id(ONE)}/mark_uncollectible")

    unread.tick()

    assert unread.state(ONE) == "uncollectible"
    assert kept(unread) == Kept("usd", paid_cents=1000)


@pytest.mark.parametrize("known_as_paid", [True, False])
def test_returned_and_voided_between_two_ticks_is_parked(unread: World, *, known_as_paid: bool) -> None:
    if known_as_paid:
        unread.tick()
        assert unread.state(ONE) == "paid"
    unread.double.return_payment(unread.invoice_id(ONE))
    unread.platform.person_voids(unread.invoice_id(ONE))

    unread.tick()

    bill = unread.bill_of(ONE)
    assert (bill.state.value, bill.reason) == ("parked", "voided_at_stripe")
    assert unread.platform.status(MARCH) == "partial"
    assert kept(unread) == Kept("usd", paid_cents=1000)


@pytest.mark.parametrize("given_up", [True, False])
def test_a_return_that_no_event_told_is_found_as_reconcile_says(unread: World, *, given_up: bool) -> None:
    unread.tick()
    assert unread.state(ONE) == "paid"
    events = [each.id for each in unread.double.state.events]
    unread.double.return_payment(unread.invoice_id(ONE))
    if given_up:
        unread.platform.person("POST", f"/v1/invoices/{unread.invoice_id(ONE)}/mark_uncollectible")
    for event in list(unread.double.state.events):
        if event.id not in events:
            unread.double.state.events.remove(event.id)
    (found,) = unread.platform.reconcile(MARCH).findings
    assert "or within a day if no event told of it" in found.remedy

    unread.clock.shift(timedelta(days=1.1))
    unread.tick()

    assert unread.state(ONE) == ("uncollectible" if given_up else "payment_failed")
    assert kept(unread) == Kept("usd", paid_cents=1000, due_cents=0 if given_up else 1000)
    unread.platform.must_agree(MARCH)
