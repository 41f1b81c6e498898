"""Reads invoices again whose money may have gone back: refunds, disputes, credit notes, returned debits.

An event tells that something happened, not what stands now: the invoice and its charges are read, and what
they say replaces what was known, even where an invoice that was paid is open again.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import retrieve
from spell_billing.invoicing.payment_facts import REASONS, bill_named_by, intents_of, payment_of
from spell_billing.ledger.charges import Charge, keep_charges, read_charges, takes_money
from spell_billing.ledger.credit_notes import known_back_cents
from spell_billing.ledger.events import TO_LOOK_AT, events_kept, mark_handled
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.payments import keep_payments
from spell_billing.ledger.settling import settle
from spell_billing.ledger.unpaid import bills_of_invoices, invoices_of_customer
from spell_billing.payments import given_back
from spell_billing.payments.event_content import EventOutcome
from spell_billing.payments.places import Budget
from spell_billing.payments.reasons import WAY


class WentBack(NamedTuple):
    """What went back of an invoice, by notes, refunds and disputes, and what its charges can still refund."""

    cents: int
    refundable_cents: int


async def look_again(ledger: Ledger, gateway: Gateway, limit: int, budget: Budget) -> int:
    """Read the invoices that events point to, the oldest event first; return how many events were dealt with.

    The others wait for the next time, also where Stripe does not answer.
    """
    done = 0
    for event in ledger.read(events_kept, TO_LOOK_AT, limit):
        if not budget.in_time:
            break
        content = json.loads(event.content)
        invoice_id = await _invoice_of(ledger, gateway, content)
        outcome = EventOutcome.NOT_OURS
        if invoice_id is not None and await read_again(ledger, gateway, invoice_id) is not None:
            outcome = EventOutcome.HANDLED
        ledger.write(mark_handled, {event.event_id: outcome})
        done += 1
    return done


async def read_again(ledger: Ledger, gateway: Gateway, invoice_id: str) -> WentBack | None:
    """Read an invoice and its charges as they are now, and report what went back without our commands.

    Return what went back of the invoice; None when it is not ours.
    """
    as_of = datetime.now(UTC)
    invoice = await retrieve(gateway, invoice_id, expand=[REASONS])
    if invoice is None or invoice["status"] == "draft":
        return None
    with ledger.reading() as connection:
        bill = bills_of_invoices(connection, [invoice_id]).get(invoice_id) or bill_named_by(invoice)
    if bill is None:
        return None
    charges = [
        charge
        for intent in intents_of(invoice)
        for charge in await _charges_of(gateway, intent)
        if charge["paid"]
    ]
    found = [await _charge(gateway, charge, invoice_id, bill.month, as_of) for charge in charges]
    listed = await gateway.first_page("GET /v1/credit_notes", invoice=invoice["id"])
    notes = [note for note in listed if note["status"] == "issued"]
    news = given_back.News(
        payment=replace(
            payment_of(invoice, bill, as_of=as_of, way=WAY),
            returned_outside_cents=sum(int(note.get("out_of_band_amount") or 0) for note in notes),
            to_balance_cents=sum(map(given_back.to_balance_cents, notes)),
        ),
        currency=str(invoice["currency"]),
        given_back_cents=given_back.given_back_cents(invoice, found, notes),
        failed=[each for charge in charges for each in given_back.failed_refunds(charge)],
        voided=[note for note in listed if note["status"] == "void"],
    )
    await asyncio.to_thread(_write, ledger, news, found)
    disputed_cents = sum(each.disputed_cents for each in found)
    kept_cents = sum(each.amount_cents - each.refunded_cents for each in found) - disputed_cents
    return WentBack(news.given_back_cents + disputed_cents, max(0, kept_cents))


def _write(ledger: Ledger, news: given_back.News, found: Sequence[Charge]) -> None:
    payment, invoice_id = news.payment, news.payment.stripe_invoice_id
    with ledger.writing() as connection:
        keep_payments(connection, [payment], as_it_is=True)
        before = read_charges(connection, invoice_ids=[invoice_id])
        changed = keep_charges(connection, found)
        settle(connection, invoice_ids=[invoice_id], back=True)
        refunded_before_cents = sum(each.refunded_cents for each in before)
        known_cents = known_back_cents(connection, payment)
        known_cents -= given_back.tell_failed_refunds(connection, news, known_cents=known_cents)
        if news.given_back_cents > known_cents:
            refunded_cents = sum(each.refunded_cents for each in found) - refunded_before_cents
            given_back.tell_given_back(
                connection, news, known_cents=known_cents, refunded_cents=refunded_cents, charges=changed
            )
            return
        # What we refunded ourselves is no news, but a dispute is.
        known = {each.charge_id: each.dispute for each in before}
        disputes = [each for each in changed if each.dispute != known.get(each.charge_id)]
        if disputes:
            given_back.tell_disputes(connection, news, disputes)


async def _charge(
    gateway: Gateway, charge: Mapping[str, Any], invoice_id: str, month: str, as_of: datetime
) -> Charge:
    disputes: Sequence[Mapping[str, Any]] = ()
    if charge.get("disputed"):
        disputes = await gateway.first_page("GET /v1/disputes", charge=charge["id"])
    taking = [each for each in disputes if takes_money(each["status"])]
    # Of several disputes, the newest first, one that takes the money is told.
    status = next((str(each["status"]) for each in [*taking, *disputes]), None)
    return Charge(
        charge_id=charge["id"],
        stripe_invoice_id=invoice_id,
        month=month,
        currency=charge["currency"],
        amount_cents=int(charge["amount"]),
        refunded_cents=int(charge["amount_refunded"]),
        disputed_cents=sum(int(each["amount"]) for each in taking),
        dispute=status,
        as_of=as_of,
    )


async def _invoice_of(ledger: Ledger, gateway: Gateway, content: Mapping[str, Any]) -> str | None:
    """Find the invoice of an event: it names it, or the payment intent leads to it by way of the customer."""
    if content.get("id"):
        return str(content["id"])
    known = ledger.read(read_charges, charge_ids=[str(content.get("charge"))])
    if known:
        return known[0].stripe_invoice_id
    if content.get("payment_intent") is None:
        return None
    if content.get("customer") is not None:
        return await invoice_of_charge(ledger, gateway, content)
    found = await _charges_of(gateway, str(content["payment_intent"]))
    return await invoice_of_charge(ledger, gateway, found[0]) if found else None


async def invoice_of_charge(ledger: Ledger, gateway: Gateway, charge: Mapping[str, Any]) -> str | None:
    """Return the invoice that a charge's payment intent pays, where its customer is one of ours."""
    customer, intent = charge.get("customer"), charge.get("payment_intent")
    if customer is None or intent is None:
        return None
    billed = ledger.read(invoices_of_customer, str(customer))
    if not billed:
        return None
    async for page in gateway.invoices(customer=customer, expand=["data.payments"]):
        for invoice in page:
            if intent in intents_of(invoice):
                return str(invoice["id"])
    return None


async def _charges_of(gateway: Gateway, intent: str) -> list[dict[str, Any]]:
    return await gateway.first_page("GET /v1/charges", payment_intent=intent, expand=["data.refunds"])
