"""The ledger follows Stripe, and people hear of failures once."""

from datetime import UTC, date, datetime, timedelta

import pytest

from spell_billing.core.errors import AlertError, SpellBillingError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.payments import read_payments
from spell_billing.reporting.status import month_status
from spell_billing_tests.payments.world import FOUR, ONE, THREE, TWO, World
from spell_billing_tests.proof.small_platform import MARCH


def test_bills_follow_their_invoices(world: World) -> None:
    world.bill(ONE, TWO, THREE, FOUR, cards={TWO: "insufficient_funds"})
    for user, what in ((THREE, "mark_uncollectible"), (FOUR, "void")):
        world.platform.person("POST", f"/v1/invoices/{world.invoice_id(user)}/{what}")
    world.advance()

    done = world.tick()

    assert [world.state(user) for user in (ONE, TWO, THREE, FOUR)] == [
        *("paid", "payment_failed", "uncollectible", "parked"),
    ]
    assert world.bill_of(FOUR).reason is Reason.VOIDED_AT_STRIPE
    assert world.followed(ONE) == [("stripe events", "finalized", "paid")]
    assert world.followed(TWO) == [("stripe events", "finalized", "payment_failed")]
    assert world.platform.trail(MARCH, FOUR)[-1]["actor"] == "stripe events"
    assert (done.bills_settled, done.bills_parked, done.alerts_sent) == (3, 1, 1)
    assert world.tick().in_words == "nothing new."


def test_a_failed_payment_is_told_with_user_amount_reason_and_next_attempt(world: World) -> None:
    world.bill(ONE, cards={ONE: "insufficient_funds"}, cents=123_456)
    world.advance()
    world.tick()

    (text,) = world.web.texts
    payment = world.payment(ONE)
    assert payment.next_attempt_at is not None
    assert payment.next_attempt_at.date() == date(2025, 4, 4)
    assert text.splitlines() == [
        "Payment of $1,234.56 failed: user-0001, 2025-03",
        f"Attempt 1 to collect invoice {payment.stripe_invoice_id} of user user-0001 for March 2025 failed.",
        "Reason: The card has too little money on it. (insufficient_funds)",
        f"Stripe's next attempt: {payment.next_attempt_at:%Y-%m-%d %H:%M} UTC.",
        "Next: spell-billing explain --month 2025-03 --user user-0001",
        f"https://dashboard.stripe.com/invoices/{payment.stripe_invoice_id}",
    ]
    assert (payment.decline_code, payment.failed_attempts) == ("insufficient_funds", 1)
    assert world.alerted(ONE) == [1]


def test_each_attempt_is_told_once_and_asked_for_once(world: World) -> None:
    world.bill(ONE, cards={ONE: "declined"})
    world.advance()
    for _ in range(2):
        world.tick()
    asked = world.requests("invoices.retrieve")
    world.advance(days=3.1)
    for _ in range(2):
        world.tick()
    world.card(ONE, "ok")
    world.advance(days=3.1)
    world.tick()

    assert [title.split(":")[0] for title in world.web.titles] == ["Payment of $10.00 failed"] * 2
    assert "Attempt 2" in world.web.texts[1]
    assert world.state(ONE) == "paid"
    assert [to for _, _, to in world.followed(ONE)] == ["payment_failed", "paid"]
    # One more for each day's reading, and one for the second failure.
    assert asked == 1
    assert world.payment(ONE).failed_attempts == 2


def test_a_customer_without_a_card_is_named_as_such(small_world: World) -> None:
    small_world.bill(ONE, cards={ONE: "none"})
    small_world.advance()
    small_world.tick()
    assert "Reason: The customer has no payment method on file." in small_world.web.texts[0]


def test_many_failures_in_one_tick_are_one_alert(small_world: World) -> None:
    users = [f"user-{number:04}" for number in range(1, 31)]
    cards = {user: "declined" if number % 3 else "none" for number, user in enumerate(users)}
    small_world.bill(*users, cards=cards, cents=2500)
    small_world.advance()
    small_world.tick()

    (text,) = small_world.web.texts
    assert text.splitlines() == [
        "30 payments of $750.00 failed",
        f"For 2025-03. Users: {', '.join(users[:10])}, ...",
        "20 x The bank declined the card without a reason. (generic_decline)",
        "10 x The customer has no payment method on file. (no_payment_method)",
        "Stripe will retry 30 of them.",
        "Next: spell-billing status --month 2025-03",
    ]
    assert small_world.tick().alerts_sent == 0
    assert [small_world.alerted(user) for user in users] == [[1]] * 30


def test_an_alert_that_does_not_go_out_is_sent_by_a_later_tick(world: World) -> None:
    world.bill(ONE, TWO, cards={ONE: "declined"})
    world.web.status = 500
    world.advance()
    for _ in range(2):
        with pytest.raises(AlertError, match="did not go out"):
            world.tick()
    assert (world.state(ONE), world.alerted(ONE)) == ("payment_failed", [])
    world.card(TWO, "declined")

    world.web.status = 200
    assert world.tick().alerts_sent == 1
    assert world.tick().alerts_sent == 0
    assert len(world.web.texts) == 1
    assert world.alerted(ONE) == [1]


def test_a_failure_that_was_paid_before_anybody_heard_is_not_told(small_world: World) -> None:
    small_world.bill(ONE, cards={ONE: "declined"})
    small_world.advance()
    small_world.card(ONE, "ok")
    small_world.advance(days=3.1)
    small_world.tick()
    assert (small_world.state(ONE), small_world.web.texts) == ("paid", [])


def test_stripe_down_for_hours_is_told_once_and_nothing_is_lost(small_world: World) -> None:
    small_world.bill(ONE, cards={ONE: "declined"})
    small_world.tick()
    small_world.advance()
    small_world.double.arm("error_500_before", operation="events.list", times=1000)
    with pytest.raises(SpellBillingError, match="could not be read"):
        small_world.tick()
    assert small_world.web.texts == []
    small_world.clock.shift(timedelta(hours=7))
    for _ in range(2):
        with pytest.raises(SpellBillingError, match="could not be read"):
            small_world.tick()
    assert small_world.web.titles == ["Payments are not followed"]
    small_world.double.disarm()
    small_world.tick()
    assert small_world.state(ONE) == "payment_failed"


def test_a_void_by_our_own_command_is_not_parked(world: World) -> None:
    world.bill(ONE, TWO)
    invoice_id = world.invoice_id(ONE)
    world.platform.void(MARCH, ONE)
    world.tick()
    assert (world.state(ONE), world.bill_of(ONE).reason) == ("void", Reason.VOIDED)
    world.platform.bill(MARCH)
    world.tick()
    assert world.state(ONE) == "finalized"
    assert world.invoice_id(ONE) != invoice_id


def test_a_void_of_our_own_that_was_cut_off_is_told_and_left_to_the_command(world: World) -> None:
    world.bill(ONE, TWO)
    world.platform.tries = 1
    world.double.arm("lost_after", operation="invoices.void")
    for nth in (2, 3):
        world.double.arm("lost_before", operation="invoices.retrieve", nth=nth)
    with pytest.raises(SpellBillingError, match="did not void"):
        world.platform.void(MARCH, ONE)
    world.double.disarm()

    for _ in range(2):
        world.tick()

    assert world.state(ONE) == "finalized"
    assert [text.splitlines()[0] for text in world.web.texts] == [
        "A void did not complete: user-0001, 2025-03"
    ]
    world.platform.void(MARCH, ONE)
    world.tick()
    assert (world.state(ONE), len(world.web.texts)) == ("void", 1)


def test_invoices_of_others_and_events_of_any_type_are_accepted_and_ignored(world: World) -> None:
    world.bill(ONE)
    world.platform.person_bills(f"cus_{ONE}", 700)
    world.hear([*world.events(), {**world.events()[0], "id": "evt_new", "type": "charge.from_the_future"}])
    assert world.inbox() == {
        ("charge.from_the_future", "ignored_type"),
        ("invoice.created", "draft"),
        ("invoice.updated", "draft"),
        ("invoice.finalized", "handled"),
        ("invoice.finalized", "not_ours"),
    }
    with world.ledger() as ledger, ledger.reading() as connection:
        (known,) = read_payments(connection, Month(2025, 3))
    assert known.user_id == ONE


def test_a_copy_of_our_invoice_does_not_move_the_bill(world: World) -> None:
    world.bill(ONE)
    copy = world.platform.person_bills(f"cus_{ONE}", 700, like=world.platform.standing()[0])
    world.double.state.violations.clear()
    world.platform.person("POST", f"/v1/invoices/{copy}/pay")
    world.tick()
    assert world.state(ONE) == State.FINALIZED


def test_explain_and_status_tell_what_became_of_the_invoices(small_world: World) -> None:
    small_world.bill(ONE, TWO, cards={TWO: "declined"})
    small_world.advance()
    small_world.tick()
    (bill,) = small_world.platform.explain(MARCH, TWO)["bills"]
    payment = bill["payment"]
    assert (payment["status"], payment["failed_attempts"], payment["decline_code"]) == (
        *("open", 1),
        "generic_decline",
    )
    assert payment["why"].startswith("The bank declined the card")
    with small_world.ledger() as ledger:
        shown = month_status(ledger, MARCH, datetime.now(UTC)).as_json()
    assert (shown["invoiced"], shown["paid"], shown["paid_cents"]) == (2, 1, 1000)
    assert (shown["payment_failed"], shown["payment_failed_cents"], shown["uncollectible"]) == (1, 1000, 0)
