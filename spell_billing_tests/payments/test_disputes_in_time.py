"""How a dispute stands is read at Stripe: neither the order of events nor their loss hides it."""

from datetime import timedelta
from typing import Any

import pytest

from spell_billing.invoicing.findings import Kind
from spell_billing.ledger.charges import Kept
from spell_billing.payments import follow, places
from spell_billing_tests.payments.test_money_back import credit_note, kept
from spell_billing_tests.payments.world import ONE, TWO, World
from spell_billing_tests.proof.small_platform import MARCH


@pytest.fixture
def paid(world: World) -> World:
    """Give a world in which ONE and TWO paid $10.00 each, and the ledger knows."""
    world.bill(ONE, TWO)
    world.advance()
    world.tick()
    assert kept(world) == Kept("usd", paid_cents=2000)
    return world


def let_the_platform_be_down(world: World, days: int) -> None:
    world.clock.shift(timedelta(days=days))
    for _ in range(2):
        world.tick()


def test_a_backlog_that_is_read_newest_first_leaves_a_won_dispute_won(
    paid: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid.double.dispute(paid.invoice_id(ONE), outcome="open")
    paid.clock.shift(timedelta(days=20))
    paid.double.dispute(paid.invoice_id(ONE), outcome="won")
    monkeypatch.setattr(places, "PAGE", 1)
    monkeypatch.setattr(follow, "EVENT_PAGES", 1)

    while "older events" in paid.tick().more:
        assert kept(paid).disputed_cents == 0

    assert ("charge.dispute.created", "handled") in paid.inbox()
    assert kept(paid) == Kept("usd", paid_cents=2000)
    assert [text.splitlines()[0] for text in paid.web.texts] == ["Dispute won: user-0001, 2025-03"]
    paid.platform.must_agree(MARCH)


@pytest.mark.both_databases
def test_a_webhook_that_comes_late_leaves_a_lost_dispute_lost(paid: World) -> None:
    paid.double.dispute(paid.invoice_id(ONE), outcome="open", amount_cents=600)
    created = paid.events("charge.dispute.created")
    for event in list(paid.double.state.events):
        if event.type == "charge.dispute.created":
            paid.double.state.events.remove(event.id)
    paid.double.dispute(paid.invoice_id(ONE), outcome="lost")
    paid.tick()

    paid.hear(created)
    paid.tick()

    assert kept(paid).disputed_cents == 600
    assert [text.splitlines()[0] for text in paid.web.texts] == ["Dispute lost: user-0001, 2025-03"]


def test_an_event_of_a_dispute_that_comes_after_its_end_changes_nothing(paid: World) -> None:
    paid.double.dispute(paid.invoice_id(ONE), outcome="open")
    begun = paid.events("charge.dispute.created", "charge.dispute.funds_withdrawn")
    paid.double.dispute(paid.invoice_id(ONE), outcome="won")
    paid.tick()
    with paid.ledger() as ledger:
        ledger.write(lambda connection: connection.exec_driver_sql("DELETE FROM ledger_events"))

    paid.hear(begun)
    paid.tick()

    assert kept(paid) == Kept("usd", paid_cents=2000)
    assert [text.splitlines()[0] for text in paid.web.texts] == ["Dispute won: user-0001, 2025-03"]


@pytest.mark.parametrize(("outcome", "disputed"), [("won", 0), ("lost", 1000)])
def test_how_a_dispute_ended_while_events_were_lost_is_found(
    paid: World, outcome: Any, disputed: int
) -> None:
    paid.double.dispute(paid.invoice_id(ONE), outcome="open")
    paid.tick()
    assert kept(paid).disputed_cents == 1000
    paid.double.dispute(paid.invoice_id(ONE), outcome=outcome)

    let_the_platform_be_down(paid, 45)

    assert kept(paid).disputed_cents == disputed
    assert paid.web.texts[-1].splitlines()[0] == f"Dispute {outcome}: user-0001, 2025-03"
    paid.platform.must_agree(MARCH)


def test_reconcile_knows_how_a_dispute_stands_without_the_ledger(paid: World) -> None:
    paid.double.dispute(paid.invoice_id(ONE), outcome="open")
    paid.tick()
    paid.double.dispute(paid.invoice_id(ONE), outcome="won")

    (found,) = paid.platform.reconcile(MARCH).findings

    assert (found.kind, found.expected) == (Kind.MONEY_DIFFERS, "$0.00 received and kept")
    assert found.found == "$10.00: $10.00 paid, $0.00 refunded, $0.00 disputed"


@pytest.mark.parametrize("share", ["out_of_band_amount", "credit_amount"])
def test_a_credit_note_of_a_paid_invoice_is_found_after_events_were_lost(paid: World, share: str) -> None:
    credit_note(paid, ONE, 110, **{share: 110})
    before = [each.kind for each in paid.platform.reconcile(MARCH).findings]

    let_the_platform_be_down(paid, 40)

    outside = 110 if share == "out_of_band_amount" else 0
    assert before == ([Kind.MONEY_DIFFERS] if outside else [])
    assert kept(paid) == Kept("usd", paid_cents=2000, refunded_cents=outside)
    assert [text.splitlines()[0] for text in paid.web.texts] == ["$1.10 credited: user-0001, 2025-03"]
    paid.platform.must_agree(MARCH)
