"""Crediting one user's invoice: explicit, audited, and each credit note issued exactly once.

The row is written before Stripe is asked, and the request's key and body depend on nothing but the row: after
a crash or a lost answer the same command sends the same request, and Stripe issues it once. Where a key may
have expired or holds a stored failure, Stripe's list is asked first.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from spell_billing.core.errors import LedgerError
from spell_billing.core.keys import idempotency_key
from spell_billing.core.money import format_money, step_cents
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import asking, retrieve
from spell_billing.invoicing.settle import latest_bill
from spell_billing.ledger.credit_notes import (
    CREDITED,
    CreditKind,
    CreditNote,
    read_credit_notes,
    write_credit_note,
)
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.session import MonthSession
from spell_billing.payments.given_back import by_notes_cents
from spell_billing.payments.money_back import read_again
from spell_billing.stripe_api.problems import Kind, StripeProblem

NUMBER = "spell_credit"
"""The metadata that numbers the credit notes of an invoice; a number marks them as ours."""

_MOST_ATTEMPTS = 5
"""How many keys one command passes over for the failures that Stripe stored under them."""
_LONGEST_MEMO = 500


class Credited(NamedTuple):
    """A credit note; not `is_new` where it was issued before, and nothing was done."""

    note: CreditNote
    is_new: bool


class _Left(NamedTuple):
    """What may still go back of an invoice, in minor units; `refundable_cents` of it at most to the card."""

    cents: int
    refundable_cents: int
    is_paid: bool


def nothing_done(note: CreditNote, currency: str) -> str:
    """Say that a credit was only asked for once more."""
    money, asked = format_money(note.cents, currency, grouping=True), note.asked_at.astimezone(UTC)
    return (
        f"Nothing was done: a credit note of {money} for this reason was made on {asked.day} "
        f"{Month.containing(asked).label}. For another one give another reason."
    )


async def credit_bill(
    session: MonthSession,
    gateway: Gateway,
    user_id: str,
    cents: int | None,
    reason: str,
    *,
    ledger: Ledger,
    to_balance: bool = False,
) -> Credited:
    """Issue a credit note for the user's invoice. To repeat it completes it, or changes nothing.

    Of an open invoice it lowers what is due, of a paid one it gives money back: to the card, or with
    `to_balance` to the customer's balance. `cents` are minor units of the bill's currency, None all that has
    not gone back yet by credit notes, refunds or disputes. The reason goes onto the credit note and into
    the audit trail.

    Raises:
        LedgerError: when there is no invoice, less is left than is to be credited, or another credit of the
            bill is not completed.
        StripeAccountError: when Stripe does not answer or refuses; the same command finds out.
    """
    bill = await latest_bill(session, user_id)
    if bill.state not in INVOICED or bill.stripe_invoice_id is None:
        raise LedgerError(
            f"The bill of user {user_id} for {session.month} is {bill.state}: there is no invoice to credit.",
            remedy="See `spell-billing explain` for what became of it.",
        )
    known = session.write(read_credit_notes, [bill.id])
    open_one = next((each for each in known if each.outcome is None), None)
    same = [
        each
        for each in known
        if each.reason == reason and cents in {None, each.cents} and each.outcome != "refused"
    ]
    if open_one is not None and open_one not in same:
        money = format_money(open_one.cents, bill.currency)
        raise LedgerError(
            f"A credit of {money} for user {user_id} ({open_one.reason}) was begun; its outcome is unknown.",
            remedy="Complete it first: repeat that command.",
        )
    if open_one is None and same and cents is not None:
        return Credited(same[-1], is_new=False)
    with asking(
        "Stripe did not say whether it issued the credit note",
        remedy="Run the command again; it finds out what became of it.",
    ):
        note = open_one
        if note is None:
            left = await _left(ledger, gateway, bill)
            # All that is left may be more than was credited for the reason before.
            if same and not left.cents:
                return Credited(same[-1], is_new=False)
            note = await _begun(
                session, gateway, bill, left, cents=cents, reason=reason, known=known, to_balance=to_balance
            )
        issued = note if note.outcome else await _issue(session, gateway, bill, note)
        return Credited(issued, is_new=True)


async def _begun(
    session: MonthSession,
    gateway: Gateway,
    bill: Bill,
    left: _Left,
    *,
    cents: int | None,
    reason: str,
    known: Sequence[CreditNote],
    to_balance: bool,
) -> CreditNote:
    """Write the credit note's row, by what the invoice is now; one of a lost ledger is taken over."""
    kind = CreditKind.REDUCE
    if left.is_paid:
        kind = CreditKind.BALANCE if to_balance else CreditKind.REFUND
    issued = await _issued(gateway, bill)
    used = [*(int(each["metadata"][NUMBER]) for each in issued), *(each.number for each in known)]
    note = CreditNote(
        bill_id=bill.id,
        number=max(used, default=0) + 1,
        stripe_invoice_id=str(bill.stripe_invoice_id),
        cents=left.cents if cents is None else cents,
        kind=kind,
        reason=reason,
        attempt=1,
        asked_at=datetime.now(UTC),
    )
    for each in issued:
        number, amount_cents = int(each["metadata"][NUMBER]), int(each["amount"])
        is_same = cents == amount_cents or (cents is None and not left.cents)
        if each["memo"] == reason[:_LONGEST_MEMO] and is_same:
            found = replace(note, number=number, cents=amount_cents)
            return await _done(session, bill, found, str(each["id"]))
    _require_left(bill, note, left)
    await asyncio.to_thread(_write, session, bill, note, "credit_requested")
    return note


async def _left(ledger: Ledger, gateway: Gateway, bill: Bill) -> _Left:
    """Return what was charged less all that went back: of an open invoice what is left to pay at most."""
    invoice_id = str(bill.stripe_invoice_id)
    # A refund or a dispute of which no event came yet counts as well.
    back = await read_again(ledger, gateway, invoice_id)
    invoice = await retrieve(gateway, invoice_id)
    if back is None or invoice is None or invoice["status"] not in {"open", "paid", "uncollectible"}:
        raise LedgerError(
            f"Invoice {invoice_id} of user {bill.user_id} does not stand at Stripe.",
            remedy=f"See what stands: spell-billing bill --month {bill.month} --verify.",
        )
    is_paid = invoice["status"] == "paid"
    # A credit note whose refund failed gave nothing back, and stands: Stripe takes none beyond the total.
    left_cents = max(0, int(invoice["total"]) - max(back.cents, by_notes_cents(invoice)))
    if not is_paid:
        left_cents = min(left_cents, int(invoice["amount_remaining"]))
    return _Left(left_cents, back.refundable_cents, is_paid=is_paid)


def _require_left(bill: Bill, note: CreditNote, left: _Left) -> None:
    """Refuse to give back more than is left, before Stripe does, or would not.

    Raises:
        LedgerError: naming what is left.
    """
    asked, all_left, to_card = (
        format_money(each, bill.currency, grouping=True)
        for each in (note.cents, left.cents, left.refundable_cents)
    )
    if not 0 < note.cents <= left.cents:
        asked_for = f", not {asked}" if note.cents else ""
        raise LedgerError(
            f"{all_left} of invoice {bill.stripe_invoice_id} can be credited{asked_for}: what credit notes, "
            "refunds and disputes gave back does not go back again.",
            remedy="Credit no more than that; `spell-billing explain` shows what went back before. A credit "
            "note whose refund failed stands: give that back by transfer.",
        )
    step = step_cents(bill.currency)
    if note.cents % step and note.cents != left.cents:
        raise LedgerError(
            f"{asked} cannot be paid: amounts in {bill.currency} are multiples of {step} minor units.",
            remedy="Credit such an amount, or --all; the rest could not be collected.",
        )
    if note.kind is CreditKind.REFUND and note.cents > left.refundable_cents:
        raise LedgerError(
            f"{to_card} of invoice {bill.stripe_invoice_id} can go back to the card, not {asked}: the rest "
            "was not paid by it.",
            remedy="Credit no more than that to the card, and the rest with --to balance.",
        )


async def _issue(session: MonthSession, gateway: Gateway, bill: Bill, note: CreditNote) -> CreditNote:
    """Send the row's request until its outcome is known; Stripe is asked before every request."""
    last_attempt = note.attempt + _MOST_ATTEMPTS
    while True:
        for each in await _issued(gateway, bill):
            if int(each["metadata"][NUMBER]) == note.number and int(each["amount"]) == note.cents:
                return await _done(session, bill, note, str(each["id"]))
        step = f"credit:{note.number}"
        key = idempotency_key(bill.month, bill.user_id, bill.generation, step, note.attempt)
        try:
            answer = await gateway.send("POST /v1/credit_notes", _parameters(note), key=key)
        except StripeProblem as problem:
            if problem.kind is Kind.STUCK and note.attempt < last_attempt:
                note = replace(note, attempt=note.attempt + 1)
                await asyncio.to_thread(_write, session, bill, note, "credit_next_attempt")
                continue
            if problem.kind not in {Kind.PERMANENT, Kind.MISSING}:
                raise
            refused = replace(note, outcome="refused")
            await asyncio.to_thread(_write, session, bill, refused, "credit_refused", problem.message)
            raise LedgerError(
                f"Stripe refused the credit note: {problem.message}",
                remedy="Nothing was credited. Correct what it names, then run the command again.",
            ) from None
        return await _done(session, bill, note, str(answer.object["id"]))


async def _done(session: MonthSession, bill: Bill, note: CreditNote, credit_note_id: str) -> CreditNote:
    issued = replace(note, outcome="issued", credit_note_id=credit_note_id)
    await asyncio.to_thread(_write, session, bill, issued, CREDITED)
    return issued


async def _issued(gateway: Gateway, bill: Bill) -> list[dict[str, Any]]:
    """Return the bill's credit notes of ours that Stripe has."""
    found = await gateway.first_page("GET /v1/credit_notes", invoice=bill.stripe_invoice_id)
    return [each for each in found if str((each.get("metadata") or {}).get(NUMBER)).isdecimal()]


def _parameters(note: CreditNote) -> dict[str, Any]:
    shares = {CreditKind.REFUND: "refund_amount", CreditKind.BALANCE: "credit_amount"}
    return {
        "invoice": note.stripe_invoice_id,
        "amount": note.cents,
        **({shares[note.kind]: note.cents} if note.kind in shares else {}),
        "memo": note.reason[:_LONGEST_MEMO],
        # The number alone: a user's id could not be erased from a credit note.
        "metadata": {NUMBER: str(note.number)},
    }


def _write(
    session: MonthSession, bill: Bill, note: CreditNote, action: str, problem: str | None = None
) -> None:
    money = format_money(note.cents, bill.currency)
    detail = f"{note.kind} {money}, {note.credit_note_id or 'asked'}: {problem or note.reason}"
    session.write(write_credit_note, bill, note, actor=session.actor, action=action, detail=detail)
