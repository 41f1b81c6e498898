"""A refund that fails at the bank, days after it succeeded, is no refund: booked back, and alerted on."""

from datetime import timedelta

import pytest

from spell_billing.core.errors import LedgerError
from spell_billing.invoicing.findings import Kind
from spell_billing.ledger.charges import Kept
from spell_billing.ledger.feed import EventType, read_feed
from spell_billing.ledger.given_back import money_back
from spell_billing_tests.payments.test_credit import credit
from spell_billing_tests.payments.test_dashboard_in_any_order import given_back_at_stripe
from spell_billing_tests.payments.test_money_back import credit_note, kept, refund
from spell_billing_tests.payments.world import ONE, TWO, World
from spell_billing_tests.proof.small_platform import MARCH


@pytest.fixture
def paid(world: World) -> World:
    """Give a world in which ONE and TWO paid $10.00 each, and the ledger knows."""
    world.bill(ONE, TWO)
    world.advance()
    world.tick()
    return world


@pytest.fixture
def refunded(paid: World) -> World:
    """Give a world in which ONE also got $4.00 of it back to the card."""
    credit(paid, ONE, 400, "outage")
    paid.tick()
    assert kept(paid) == Kept("usd", paid_cents=2000, refunded_cents=400)
    paid.clock.shift(timedelta(days=3))
    paid.tick()
    return paid


def titles(world: World) -> list[str]:
    return [text.splitlines()[0] for text in world.web.texts]


def credited(world: World) -> list[int | None]:
    with world.ledger() as ledger, ledger.reading() as connection:
        feed = [each for _, each in read_feed(connection, after=0, until=10**9, limit=1000)]
    return [each.total_cents for each in feed if each.type == EventType.CREDITED]


def lose_the_events(world: World) -> None:
    for event in list(world.double.state.events):
        if "refund" in event.type:
            world.double.state.events.remove(event.id)


@pytest.mark.both_databases
def test_it_is_booked_back_and_alerted_on_once_with_what_to_do(refunded: World) -> None:
    refunded.double.fail_refund(refunded.invoice_id(ONE))

    for _ in range(3):
        refunded.tick()
        refunded.clock.shift(timedelta(days=1.1))

    assert kept(refunded) == Kept("usd", paid_cents=2000)
    assert titles(refunded) == ["Refund of $4.00 failed: user-0001, 2025-03"]
    (text,) = refunded.web.texts
    assert "(expired_or_canceled_card): the money is at Stripe again, and the user does not have it." in text
    assert "credit --month 2025-03 --user user-0001 --cents 400 --to balance" in text
    refunded.platform.must_agree(MARCH)
    assert credited(refunded) == [400, -400]
    story = refunded.platform.explain(MARCH, ONE)
    assert "refunded" not in story["answer"]
    assert "refund of $4.00 failed: expired_or_canceled_card" in str(story)


def test_the_remedy_that_is_named_gives_it_back_for_good(refunded: World) -> None:
    refunded.double.fail_refund(refunded.invoice_id(ONE))
    refunded.tick()

    credit(refunded, ONE, 400, "the card was closed", to_balance=True)
    for _ in range(2):
        refunded.tick()
        refunded.clock.shift(timedelta(days=1.1))

    assert credited(refunded) == [400, -400, 400]
    assert len(refunded.web.texts) == 1
    refunded.platform.must_agree(MARCH)


def test_no_more_is_credited_than_credit_notes_leave_whose_refund_failed(refunded: World) -> None:
    refunded.double.fail_refund(refunded.invoice_id(ONE))
    refunded.tick()

    assert credit(refunded, ONE, None, "the card was closed", to_balance=True).cents == 600
    with pytest.raises(LedgerError, match=r"\$0.00 of invoice .* can be credited, not \$4.00") as refused:
        credit(refunded, ONE, 400, "the rest", to_balance=True)

    assert "A credit note whose refund failed stands: give that back by transfer." in refused.value.remedy
    assert len(refunded.double.state.credit_notes) == 2


def test_reconcile_finds_it_before_the_ledger_knows(refunded: World) -> None:
    refunded.double.fail_refund(refunded.invoice_id(ONE))

    (found,) = refunded.platform.reconcile(MARCH).findings

    assert (found.kind, found.user_id) == (Kind.MONEY_DIFFERS, ONE)
    assert (found.expected, found.found) == (
        "$6.00 received and kept",
        "$10.00: $10.00 paid, $0.00 refunded, $0.00 disputed",
    )


def test_what_no_event_told_is_found_by_the_daily_reading(refunded: World) -> None:
    refunded.double.fail_refund(refunded.invoice_id(ONE))
    lose_the_events(refunded)

    refunded.clock.shift(timedelta(days=1.1))
    refunded.tick()

    assert kept(refunded) == Kept("usd", paid_cents=2000)
    assert titles(refunded) == ["Refund of $4.00 failed: user-0001, 2025-03"]
    refunded.platform.must_agree(MARCH)


@pytest.mark.parametrize("seen", ["by its event", "by the daily reading"])
def test_a_refund_that_fails_at_the_bank_is_kept_again_and_alerted_on(paid: World, seen: str) -> None:
    refund(paid, ONE, 400)
    paid.tick()
    paid.double.fail_refund(paid.invoice_id(ONE))
    assert [each.kind for each in paid.platform.reconcile(MARCH).findings] == [Kind.MONEY_DIFFERS]
    if seen == "by the daily reading":
        lose_the_events(paid)
        paid.advance(days=1.1)

    paid.tick()
    paid.tick()

    assert kept(paid) == Kept("usd", paid_cents=2000)
    assert titles(paid)[1:] == ["Refund of $4.00 failed: user-0001, 2025-03"]
    paid.platform.must_agree(MARCH)
    refund(paid, ONE, 400)
    paid.tick()
    assert kept(paid).refunded_cents == 400


def test_a_credit_note_whose_refund_fails_gave_nothing_back(paid: World) -> None:
    credit_note(paid, ONE, 400, refund_amount=400)
    paid.tick()
    told = len(paid.web.texts)
    paid.double.fail_refund(paid.invoice_id(ONE))
    paid.double.dispute(paid.invoice_id(ONE))

    for _ in range(3):
        paid.tick()

    of = ": user-0001, 2025-03"
    assert sorted(titles(paid)[told:]) == [f"Dispute lost{of}", f"Refund of $4.00 failed{of}"]
    assert kept(paid) == Kept("usd", paid_cents=2000, disputed_cents=1000)
    with paid.ledger() as ledger, ledger.reading() as connection:
        back = money_back(connection, {paid.invoice_id(ONE): (ONE, str(MARCH))})
    assert back[paid.invoice_id(ONE)] == 1000


def test_one_that_failed_before_anybody_saw_it_is_alerted_on_and_books_nothing(paid: World) -> None:
    refund(paid, ONE, 400)
    paid.double.fail_refund(paid.invoice_id(ONE))

    paid.tick()

    assert titles(paid) == ["Refund of $4.00 failed: user-0001, 2025-03"]
    assert kept(paid) == Kept("usd", paid_cents=2000)
    assert credited(paid) == []


def test_the_same_amount_refunded_again_in_the_dashboard_is_told_again(paid: World) -> None:
    for _ in range(2):
        refund(paid, ONE, 400)
        paid.tick()
        paid.double.fail_refund(paid.invoice_id(ONE))
        paid.tick()
    refund(paid, ONE, 400)
    paid.tick()

    of = ": user-0001, 2025-03"
    failed, back = f"Refund of $4.00 failed{of}", f"$4.00 refunded{of}"
    assert titles(paid) == [back, failed, back, failed, back]
    assert credited(paid) == [400, -400, 400, -400, 400]
    assert kept(paid).refunded_cents == 400
    assert given_back_at_stripe(paid, ONE) == 400
    paid.platform.must_agree(MARCH)
