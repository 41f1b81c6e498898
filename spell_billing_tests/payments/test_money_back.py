"""Money that goes back after an invoice was paid is seen within a tick, told once, and counted as gone."""

from typing import Any

import pytest

from spell_billing.invoicing.findings import Kind
from spell_billing.ledger.charges import Kept, kept_of_months
from spell_billing.reporting.status import month_status
from spell_billing_tests.payments.world import ONE, THREE, TWO, World
from spell_billing_tests.proof.small_platform import APRIL, MARCH, NOW
from spell_billing_tests.proof.test_people_at_stripe import revise


def kept(world: World) -> Kept:
    with world.ledger() as ledger, ledger.reading() as connection:
        (found,) = kept_of_months(connection, [MARCH])[str(MARCH)]
    return found


@pytest.fixture
def paid(world: World) -> World:
    """Give a world in which ONE, TWO and THREE paid $10.00 each, and the ledger knows."""
    world.bill(ONE, TWO, THREE)
    world.advance()
    world.tick()
    assert kept(world) == Kept("usd", paid_cents=3000)
    return world


def refund(world: World, user: str, cents: int) -> None:
    charge = next(each for each in world.double.state.charges if each.customer == f"cus_{user}")
    world.platform.person("POST", "/v1/refunds", {"charge": charge.id, "amount": cents})


def forget_events(world: World) -> None:
    state = world.double.state
    for event in list(state.events):
        if event.type.startswith(("charge.", "refund.")):
            state.events.remove(event.id)


def credit_note(world: World, user: str, cents: int, **shares: int) -> None:
    parameters: dict[str, Any] = {"invoice": world.invoice_id(user), "amount": cents, **shares}
    world.platform.person("POST", "/v1/credit_notes", parameters)


def test_a_refund_is_seen_within_a_tick_and_told_once(paid: World) -> None:
    refund(paid, ONE, 400)

    paid.tick()
    paid.tick()

    assert kept(paid) == Kept("usd", paid_cents=3000, refunded_cents=400)
    assert paid.state(ONE) == "paid"
    (text,) = [text for text in paid.web.texts if "refunded" in text]
    assert text.splitlines()[0] == "$4.00 refunded: user-0001, 2025-03"
    assert "paid with $10.00: $4.00 refunded, $0.00 disputed, $6.00 kept." in text
    refund(paid, ONE, 600)
    paid.tick()
    assert kept(paid).refunded_cents == 1000
    assert len([text for text in paid.web.texts if "refunded" in text]) == 2


def test_a_credit_note_that_refunds_is_a_refund(paid: World) -> None:
    credit_note(paid, ONE, 1000, refund_amount=1000)

    paid.tick()

    assert kept(paid) == Kept("usd", paid_cents=3000, refunded_cents=1000)


def test_money_returned_outside_of_stripe_is_not_kept(paid: World) -> None:
    credit_note(paid, ONE, 300, out_of_band_amount=300)

    paid.tick()

    assert kept(paid).kept_cents == 2700


def test_a_credit_to_the_balance_is_money_kept_until_the_next_invoice(paid: World) -> None:
    credit_note(paid, ONE, 300, credit_amount=300)

    paid.tick()

    assert kept(paid) == Kept("usd", paid_cents=3000)


def test_a_credit_note_before_the_payment_lowers_what_is_due(world: World) -> None:
    world.bill(ONE, cards={ONE: "declined"})
    world.advance()
    world.tick()
    credit_note(world, ONE, 400)

    world.tick()

    assert world.payment(ONE).credited_cents == 400
    world.card(ONE, "ok")
    world.advance(days=4)
    world.tick()
    assert kept(world) == Kept("usd", paid_cents=600, credited_cents=400)


@pytest.mark.parametrize(
    ("steps", "disputed", "said"),
    [
        (["open"], 1000, ["Dispute needs response"]),
        (["lost"], 1000, ["Dispute lost"]),
        (["won"], 0, ["Dispute won"]),
        (["open", "lost"], 1000, ["Dispute needs response", "Dispute lost"]),
        (["open", "won"], 0, ["Dispute needs response", "Dispute won"]),
    ],
)
def test_a_dispute_takes_the_money_until_it_is_won(
    paid: World, steps: list[Any], disputed: int, said: list[str]
) -> None:
    for step in steps:
        paid.double.dispute(paid.invoice_id(ONE), outcome=step)
        paid.tick()

    assert kept(paid).disputed_cents == disputed
    assert kept(paid).kept_cents == 3000 - disputed
    titles = [text.splitlines()[0] for text in paid.web.texts if "Dispute" in text]
    assert [title.partition(":")[0] for title in titles][-1] == said[-1]
    assert paid.state(ONE) == "paid"


def test_a_bank_debit_that_comes_back_is_followed(paid: World) -> None:
    paid.double.return_payment(paid.invoice_id(ONE))

    paid.tick()

    assert paid.state(ONE) == "payment_failed"
    assert kept(paid) == Kept("usd", paid_cents=2000, due_cents=1000)
    assert any("Payment of $10.00 failed: user-0001" in text for text in paid.web.texts)
    assert paid.state(TWO) == "paid"


def test_what_no_event_told_is_found_by_the_daily_reading(paid: World) -> None:
    refund(paid, ONE, 400)
    paid.double.dispute(paid.invoice_id(TWO))
    forget_events(paid)

    paid.tick()
    assert kept(paid).kept_cents == 3000
    paid.advance(days=1.1)
    paid.tick()

    assert kept(paid) == Kept("usd", paid_cents=3000, refunded_cents=400, disputed_cents=1000)


def test_events_come_in_any_order_and_twice(paid: World) -> None:
    refund(paid, ONE, 400)
    refund(paid, ONE, 100)
    events = paid.events("charge.refunded")

    for happened in ([events[1]], [events[0]], events):
        paid.hear(happened)
        paid.tick()

    assert kept(paid).refunded_cents == 500
    assert len([text for text in paid.web.texts if "refunded" in text]) == 1


def test_a_refund_of_another_s_charge_is_no_news(paid: World) -> None:
    paid.double.add_customer("cus_other")
    other = paid.platform.person_bills("cus_other", 700)
    paid.platform.person("POST", f"/v1/invoices/{other}/pay")
    charge = next(each for each in paid.double.state.charges if each.invoice == other)
    paid.platform.person("POST", "/v1/refunds", {"charge": charge.id})

    paid.tick()

    assert kept(paid) == Kept("usd", paid_cents=3000)
    assert ("charge.refunded", "not_ours") in paid.inbox()
    assert paid.web.texts == []


def test_one_customer_s_many_invoices_are_told_apart(paid: World) -> None:
    """An organisation: one customer of Stripe's pays for several users."""
    paid.platform.sql("UPDATE billing_accounts SET stripe_customer_id = 'cus_user-0002'")
    paid.platform.bill(MARCH)
    refund(paid, TWO, 250)

    paid.tick()

    with paid.ledger() as ledger, ledger.reading() as connection:
        rows = connection.exec_driver_sql(
            "SELECT stripe_invoice_id, refunded_cents FROM ledger_charges"
        ).all()
    assert [tuple(row) for row in rows] == [(paid.invoice_id(TWO), 250)]


def test_reconcile_has_the_money_as_its_fourth_side(paid: World) -> None:
    refund(paid, ONE, 400)
    paid.double.dispute(paid.invoice_id(TWO))

    before = paid.platform.reconcile(MARCH)
    paid.tick()
    after = paid.platform.must_agree(MARCH)

    found = {each.user_id: each for each in before.findings}
    assert {user: each.kind for user, each in found.items()} == dict.fromkeys((ONE, TWO), Kind.MONEY_DIFFERS)
    assert found[ONE].found == "$6.00: $10.00 paid, $4.00 refunded, $0.00 disputed"
    (money,) = after.money
    assert money == Kept("usd", paid_cents=3000, refunded_cents=400, disputed_cents=1000)
    assert money.kept_cents == 1600


def test_a_dispute_that_was_won_is_kept_money_in_reconciliation_too(paid: World) -> None:
    paid.double.dispute(paid.invoice_id(TWO), outcome="won")
    paid.tick()

    (money,) = paid.platform.must_agree(MARCH).money

    assert money.kept_cents == 3000


def test_an_amount_below_the_smallest_charge_is_moved_and_not_paid(world: World) -> None:
    world.bill(ONE, cents=30)
    world.tick()

    assert kept(world) == Kept("usd", moved_cents=30)
    story = world.platform.explain(MARCH, ONE)
    assert "is paid: $0.30 moved to the next invoice." in story["answer"]
    with world.ledger() as ledger:
        assert month_status(ledger, MARCH, NOW).as_json()["paid_cents"] == 0
    (money,) = world.platform.must_agree(MARCH).money
    assert money.paid_cents == 0
    # The next invoice collects it.
    world.platform.calls(APRIL, (ONE, 1000))
    world.platform.bill(APRIL)
    world.advance()
    world.tick()
    with world.ledger() as ledger, ledger.reading() as connection:
        (next_month,) = kept_of_months(connection, [APRIL])[str(APRIL)]
    assert next_month == Kept("usd", paid_cents=1030, moved_cents=-30)


def test_what_the_balance_covers_is_not_paid_with_money(world: World) -> None:
    world.platform.accounts(ONE)
    world.double.add_customer(f"cus_{ONE}", balance_cents=-400)
    world.platform.calls(MARCH, (ONE, 1000))
    world.platform.bill(MARCH)
    world.advance()
    world.tick()

    assert kept(world) == Kept("usd", paid_cents=600, from_balance_cents=400)


def test_an_edited_invoice_is_followed_within_a_tick(world: World) -> None:
    world.bill(ONE, TWO, cards={ONE: "declined"})
    world.advance()
    world.tick()
    revision = revise(world.platform, world.invoice_id(ONE), -300)

    world.tick()

    bill = world.bill_of(ONE)
    assert (bill.stripe_invoice_id, bill.total_cents) == (revision, 700)
    assert bill.state in {"finalized", "payment_failed"}
    world.platform.must_agree(MARCH)
    world.platform.bill(MARCH, verify=True)
    world.platform.must_agree(MARCH)
