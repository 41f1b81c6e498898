"""Reads invoices again whose money may have gone back: refunds, disputes, credit notes, returned debits.

An event tells that something happened, not what stands now: the invoice and its charges are read, and what
they say replaces what was known, even where an invoice that was paid is open again.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.text import body
from spell_billing.core.money import format_money
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import retrieve
from spell_billing.invoicing.payment_facts import REASONS, bill_named_by, intents_of
from spell_billing.ledger.charges import Charge, keep_charges, read_charges, takes_money
from spell_billing.ledger.events import Event, events_to_look_at, mark_handled
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.outbox import put
from spell_billing.ledger.payments import Payment, keep_payments
from spell_billing.ledger.schema import audit
from spell_billing.ledger.settling import settle
from spell_billing.ledger.unpaid import bills_of_invoices, invoices_of_customer
from spell_billing.payments.event_content import DISPUTES, EventOutcome, content_of
from spell_billing.payments.reasons import payment_read
from spell_billing.payments.tick_budget import Budget
from spell_billing.stripe_api.client import Invoice

KIND = "money_back"
"""The kind of alert."""

_MOST_EVENT_PAGES = 10
_LIST_CHARGES, _LIST_NOTES = "GET /v1/charges", "GET /v1/credit_notes"


async def look_again(ledger: Ledger, gateway: Gateway, limit: int, budget: Budget) -> int:
    """Read the invoices that events point to, the oldest event first.

    Returns:
        How many events were dealt with.

    Raises:
        StripeProblem: when Stripe does not answer; the events wait for the next time.
        StripeAccountError: when the account refuses.
    """
    with ledger.reading() as connection:
        events = events_to_look_at(connection, limit)
    done = 0
    for event in events:
        if not budget.in_time:
            break
        content = json.loads(event.content)
        invoice_id = await _invoice_of(ledger, gateway, content)
        outcome = EventOutcome.NOT_OURS
        if invoice_id is not None and await read_again(ledger, gateway, invoice_id, event=event):
            outcome = EventOutcome.HANDLED
        with ledger.writing() as connection:
            mark_handled(connection, {event.event_id: outcome})
        done += 1
    return done


async def read_again(
    ledger: Ledger, gateway: Gateway, invoice_id: str, *, event: Event | None = None, alerting: bool = True
) -> bool:
    """Read an invoice and its charges as they are now, and alert on money that went back.

    Args:
        ledger: The ledger.
        gateway: To Stripe.
        invoice_id: The invoice.
        event: What pointed to it; a dispute's amount and status stand in it alone.
        alerting: Whether operators do not know yet.

    Returns:
        Whether it is an invoice of ours.
    """
    as_of = datetime.now(UTC)
    invoice = await retrieve(gateway, invoice_id, expand=[REASONS])
    if invoice is None or invoice["status"] == "draft":
        return False
    with ledger.reading() as connection:
        bill = bills_of_invoices(connection, [invoice_id]).get(invoice_id) or bill_named_by(invoice)
        known = {each.charge_id: each for each in read_charges(connection, invoice_ids=[invoice_id])}
    if bill is None:
        return False
    dispute = json.loads(event.content).get("dispute") if event is not None else None
    charges = [
        charge
        for intent in intents_of(invoice)
        for charge in await _charges_of(gateway, intent)
        if charge["paid"]
    ]
    for charge in charges:
        unknown = charge["id"] not in known or known[charge["id"]].dispute is None
        if charge.get("disputed") and dispute is None and unknown:
            dispute = await _dispute_of(gateway, charge)
    found = [
        _charge(
            charge,
            invoice_id=invoice_id,
            month=bill.month,
            known=known.get(charge["id"]),
            dispute=dispute,
            as_of=as_of,
        )
        for charge in charges
    ]
    outside_cents = await _returned_outside(gateway, invoice)
    payment = replace(payment_read(invoice, bill, as_of), returned_outside_cents=outside_cents)
    await asyncio.to_thread(_write, ledger, payment, found, alerting=alerting)
    return True


def _write(ledger: Ledger, payment: Payment, found: Sequence[Charge], *, alerting: bool) -> None:
    with ledger.writing() as connection:
        keep_payments(connection, [payment], as_it_is=True)
        news = keep_charges(connection, found)
        settle(connection, invoice_ids=[payment.stripe_invoice_id], back=True)
        if alerting:
            _alert(connection, payment, news)
            _note(connection, payment, news)


def _note(connection: Connection, payment: Payment, news: Sequence[Charge]) -> None:
    """Write into the audit trail what went back without a command of ours."""
    for each in news:
        refunded = format_money(each.refunded_cents, each.currency, grouping=True)
        disputed = format_money(each.disputed_cents, each.currency, grouping=True)
        connection.execute(
            audit.insert().values(
                at=each.as_of,
                actor=payment.way,
                run_id="",
                month=payment.month,
                user_id=payment.user_id,
                generation=payment.generation,
                action=KIND,
                stripe_invoice_id=each.stripe_invoice_id,
                detail=f"{refunded} refunded, {disputed} disputed ({each.dispute or 'no dispute'})",
            )
        )


def _alert(connection: Connection, payment: Payment, news: Sequence[Charge]) -> None:
    put(connection, [alert.on() for each in news if (alert := _alert_on(payment, each)) is not None])


def _alert_on(payment: Payment, charge: Charge) -> Alert | None:
    refunded = format_money(charge.refunded_cents, charge.currency, grouping=True)
    disputed = format_money(charge.disputed_cents, charge.currency, grouping=True)
    kept_cents = charge.amount_cents - charge.refunded_cents - charge.disputed_cents
    whom = f"{payment.user_id}, {payment.month}"
    if charge.dispute is not None:
        title = f"Dispute {charge.dispute.replace('_', ' ')}: {whom}"
    else:
        title = f"{refunded} refunded: {whom}"
    return Alert(
        key=f"{KIND}:{charge.charge_id}:{charge.refunded_cents}:{charge.disputed_cents}:{charge.dispute}",
        kind=KIND,
        title=title,
        body=body(
            f"Invoice {charge.stripe_invoice_id} of user {payment.user_id} was paid with "
            f"{format_money(charge.amount_cents, charge.currency, grouping=True)}: {refunded} refunded, "
            f"{disputed} disputed, {format_money(kept_cents, charge.currency, grouping=True)} kept.",
            f"Next: spell-billing explain --month {payment.month} --user {payment.user_id}",
            f"https://dashboard.stripe.com/invoices/{charge.stripe_invoice_id}",
        ),
        month=payment.month,
    )


def _charge(
    charge: Mapping[str, Any],
    *,
    invoice_id: str,
    month: str,
    known: Charge | None,
    dispute: Mapping[str, Any] | None,
    as_of: datetime,
) -> Charge:
    status, disputed_cents = (known.dispute, known.disputed_cents) if known else (None, 0)
    if charge.get("disputed"):
        if dispute and dispute.get("charge") == charge["id"]:
            status = str(dispute["status"])
            disputed_cents = int(dispute["amount"]) if takes_money(status) else 0
        elif status is None:
            # Only an event tells how a dispute stands: without one, the money counts as taken.
            status, disputed_cents = "disputed", int(charge["amount"]) - int(charge["amount_refunded"])
    return Charge(
        charge_id=charge["id"],
        stripe_invoice_id=invoice_id,
        month=month,
        currency=charge["currency"],
        amount_cents=int(charge["amount"]),
        refunded_cents=int(charge["amount_refunded"]),
        disputed_cents=disputed_cents,
        dispute=status,
        as_of=as_of,
    )


async def _invoice_of(ledger: Ledger, gateway: Gateway, content: Mapping[str, Any]) -> str | None:
    """Find the invoice of an event: it names it, or the payment intent leads to it by way of the customer."""
    if content.get("id"):
        return str(content["id"])
    with ledger.reading() as connection:
        known = read_charges(connection, charge_ids=[str(content.get("charge"))])
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
    with ledger.reading() as connection:
        billed = invoices_of_customer(connection, str(customer))
    if not billed:
        return None
    async for page in gateway.invoices(customer=customer, expand=["data.payments"]):
        for invoice in page:
            if intent in intents_of(invoice):
                return str(invoice["id"])
    return None


async def _charges_of(gateway: Gateway, intent: str) -> list[dict[str, Any]]:
    parameters = {"payment_intent": intent, "limit": 100}
    answer = await gateway.send(_LIST_CHARGES, "get", "/v1/charges", parameters)
    found: list[dict[str, Any]] = answer.object["data"]
    return found


async def _dispute_of(gateway: Gateway, charge: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how a charge's dispute stands by the newest event of it; None where Stripe no longer has one."""
    parameters: dict[str, Any] = {
        "types": list(DISPUTES),
        "created": {"gte": int(charge["created"])},
        "limit": 100,
    }
    for _ in range(_MOST_EVENT_PAGES):
        page = (await gateway.send("GET /v1/events", "get", "/v1/events", parameters)).object
        for event in page["data"]:
            pointer = content_of(event).get("dispute")
            if pointer is not None and pointer["charge"] == charge["id"]:
                found: dict[str, Any] = pointer
                return found
        if not page["data"] or not page["has_more"]:
            return None
        parameters["starting_after"] = page["data"][-1]["id"]
    return None


async def _returned_outside(gateway: Gateway, invoice: Invoice) -> int:
    """Return what credit notes say was given back outside of Stripe."""
    if not invoice.get("post_payment_credit_notes_amount"):
        return 0
    parameters = {"invoice": invoice["id"], "limit": 100}
    answer = await gateway.send(_LIST_NOTES, "get", "/v1/credit_notes", parameters)
    issued = [note for note in answer.object["data"] if note["status"] == "issued"]
    return sum(int(note.get("out_of_band_amount") or 0) for note in issued)
