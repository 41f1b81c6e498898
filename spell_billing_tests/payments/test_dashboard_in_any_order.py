"""Whatever people do in Stripe's dashboard, in any order with our steps: the ledger knows the money kept."""

import random
from contextlib import suppress
from typing import Any

import pytest

from spell_billing.core.errors import SpellBillingError
from spell_billing.ledger.charges import kept_of_months
from spell_billing.ledger.feed import EventType, read_feed
from spell_billing.stripe_double import DoubleError, Invoice
from spell_billing_tests.payments.test_credit import credit
from spell_billing_tests.payments.world import ONE, TWO, World
from spell_billing_tests.proof.small_platform import MARCH

USERS = (ONE, TWO)
STEPS = (
    *(
        "void",
        "mark_uncollectible",
        "pay",
        "pay_outside",
        "refund",
        "fail_refund",
        "credit_note",
        "dispute",
        "win",
        "return",
    ),
    *("advance", "tick", "verify", "our_credit"),
)


def person(world: World, method: str, path: str, parameters: dict[str, Any]) -> None:
    """Do something at Stripe that may be refused there."""
    with suppress(AssertionError):
        world.platform.person(method, path, parameters)


def do(world: World, step: str, user: str) -> None:  # noqa: C901 - one branch a step
    invoice_id = world.invoice_id(user)
    invoice = world.double.state.invoices.get(invoice_id)
    charge = next(
        (c for c in world.double.state.charges if c.invoice == invoice_id and c.failure_code is None), None
    )
    if step in {"void", "mark_uncollectible", "pay"}:
        person(world, "POST", f"/v1/invoices/{invoice_id}/{step}", {})
    elif step == "pay_outside":
        person(world, "POST", f"/v1/invoices/{invoice_id}/pay", {"paid_out_of_band": "true"})
    elif step == "refund" and charge is not None and not charge.disputed:
        person(world, "POST", "/v1/refunds", {"charge": charge.id, "amount": 300})
    elif step == "fail_refund":
        with suppress(DoubleError):
            world.double.fail_refund(invoice_id)
    elif step == "credit_note":
        shares = {"refund_amount": 200} if invoice.status == "paid" and charge is not None else {}
        person(world, "POST", "/v1/credit_notes", {"invoice": invoice_id, "amount": 200, **shares})
    elif step in {"dispute", "win"} and charge is not None and not charge.refunded_cents:
        world.double.dispute(invoice_id, outcome="lost" if step == "dispute" else "won")
    elif step == "return" and _may_return(invoice, charge):
        world.double.return_payment(invoice_id)
    elif step == "advance":
        world.advance(days=1)
    elif step == "tick":
        world.tick()
    elif step == "verify":
        world.platform.bill(MARCH, verify=True)
    elif step == "our_credit":
        with suppress(SpellBillingError):
            credit(world, user, 100, "ours")


def _may_return(invoice: Invoice, charge: Any) -> bool:
    untouched = charge is not None and not charge.disputed and not charge.refunded_cents
    return untouched and invoice.status == "paid" and not invoice.post_payment_credit_cents


def kept_at_stripe(world: World) -> int:
    """Sum what Stripe's objects say was received and kept, by no code of ours."""
    account, kept = world.double.state, 0
    for invoice in account.invoices:
        if invoice.status not in {"open", "paid", "uncollectible"}:
            continue
        kept += invoice.amount_paid_cents
        charges = [c for c in account.charges if c.invoice == invoice.id and c.failure_code is None]
        for charge in charges:
            kept -= charge.refunded_cents
            last = [d for d in account.disputes if d.charge == charge.id]
            if last and last[-1].status != "won":
                kept -= last[-1].amount_cents
    return kept


def given_back_at_stripe(world: World, user: str) -> int:
    """Sum the credit notes of a user's invoice and the refunds beside them, by no code of ours."""
    account, invoice_id = world.double.state, world.invoice_id(user)
    notes = [note for note in account.credit_notes if note.invoice == invoice_id]
    of_notes = {refund for note in notes for refund in note.refunds}
    charges = {charge.id for charge in account.charges if charge.invoice == invoice_id}
    refunds = [each for each in account.refunds if each.charge in charges]
    beside = sum(each.amount_cents for each in refunds if each.id not in of_notes)
    failed = sum(each.amount_cents for each in refunds if each.status == "failed")
    return sum(note.amount_cents for note in notes) + beside - failed


@pytest.mark.parametrize("cards", [("ok", "ok"), ("ok", "declined")])
@pytest.mark.parametrize("seed", range(16))
def test_the_ledger_knows_the_money_kept_and_tells_what_was_given_back(
    small_world: World, cards: tuple[str, str], seed: int
) -> None:
    world, chance = small_world, random.Random(seed)  # noqa: S311 - the same sequence each time
    steps = [(chance.choice(STEPS), chance.choice(USERS)) for _ in range(10)]
    world.bill(*USERS, cards=dict(zip(USERS, cards, strict=True)))
    world.advance()
    for step, user in steps:
        do(world, step, user)

    for _ in range(3):
        world.tick()

    with world.ledger() as ledger, ledger.reading() as connection:
        found = kept_of_months(connection, [MARCH])[str(MARCH)]
        feed = [event for _, event in read_feed(connection, after=0, until=10**9, limit=1000)]
    for user in USERS:
        told = [each for each in feed if (each.type, each.user_id) == (EventType.CREDITED, user)]
        assert sum(each.total_cents or 0 for each in told) == given_back_at_stripe(world, user)
    standing = {user for user in USERS if world.state(user) not in {"parked", "void"}}
    assert sum(each.kept_cents for each in found) == kept_at_stripe(world)
    kinds = {finding.kind.value for finding in world.platform.reconcile(MARCH).findings}
    assert kinds <= {"void_at_stripe", "not_invoiced"}
    for user in set(USERS) - standing:
        assert world.bill_of(user).reason == "voided_at_stripe"
