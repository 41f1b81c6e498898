"""The one way in for Stripe's events: into the inbox, then into the ledger, each once and in any order.

The sensor and the webhook both call `receive` with the events as Stripe renders them, then `handle_waiting`.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.alerts.alert import LONGEST_KEY, Alert, body
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.payment_facts import bill_named_by, payment_of
from spell_billing.ledger.events import Event, count_waiting, mark_handled, receive_events, waiting_events
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.outbox import put
from spell_billing.ledger.payments import Payment, keep_payments, newest, payments_of
from spell_billing.ledger.settling import settle
from spell_billing.ledger.unpaid import BillName, bills_of_invoices
from spell_billing.payments.event_content import EventOutcome, content_of
from spell_billing.payments.money_back import look_again
from spell_billing.payments.places import Budget
from spell_billing.payments.reasons import look_up_reasons

SET_ASIDE_KIND = "event_set_aside"
"""The kind of alert."""

FAILURES = frozenset({"invoice.payment_failed", "invoice.payment_action_required"})
"""Events that say that the last attempt failed; a snapshot alone does not always tell."""

_UNPAID = frozenset({"open", "uncollectible"})
_LONGEST_TYPE = 80
_LOOKING_SECONDS = 10.0
_REASONS_AT_ONCE = 20
"""How many failed payments' reasons are asked for after one batch; the sensor asks for the rest."""


@dataclass(frozen=True, slots=True)
class Handled:
    """What one batch of the inbox led to: events taken from it, and `waiting` in it still.

    Of `news` invoices something new is known, bills were `settled`, and of the events `to_look_at` point to
    an invoice that is still to be read.
    """

    events: int = 0
    news: int = 0
    settled: int = 0
    waiting: int = 0
    to_look_at: int = 0


def receive(connection: Connection, events: Sequence[Mapping[str, Any]], way: str) -> int:
    """Put events, as Stripe renders them, into the inbox, each event id once; return how many are new.

    `way` is how they came in, for the audit trail: `stripe events` or `webhook`.
    """
    return receive_events(connection, [_kept(event, way) for event in events if event.get("id")])


def _kept(event: Mapping[str, Any], way: str) -> Event:
    """Return what is kept of an event, whatever it lacks: one odd event must not stop the others."""
    try:
        created_at = datetime.fromtimestamp(event["created"], UTC)
        content = content_of(event)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
        created_at = datetime.now(UTC)
        content = {"unreadable": f"{type(problem).__name__}: {problem}"}
    kind = str(event.get("type"))[:_LONGEST_TYPE]
    return Event(str(event["id"]), kind, created_at, way, json.dumps(content))


async def handle_waiting(ledger: Ledger, gateway: Gateway, limit: int) -> Handled:
    """Handle events of the inbox, the oldest first.

    Safe at any time and in any number of processes: an event is handled in one transaction with what follows
    from it. Voided invoices wait for the sensor's next tick, which parks their bills under the month's lock.
    When Stripe does not say why a payment failed, the events are handled, and the sensor asks again.
    """
    handled = await asyncio.to_thread(handle_batch, ledger, limit)
    if handled.news:
        await look_up_reasons(ledger, gateway, _REASONS_AT_ONCE)
    if handled.to_look_at:
        await look_again(ledger, gateway, _REASONS_AT_ONCE, Budget(_LOOKING_SECONDS))
    return handled


def handle_batch(ledger: Ledger, limit: int) -> Handled:
    """Handle events of the inbox in one transaction, without Stripe."""
    with ledger.writing() as connection:
        events = waiting_events(connection, limit)
        if not events:
            return Handled()
        contents = {event.event_id: json.loads(event.content) for event in events}
        invoice_ids = {each["id"] for each in contents.values() if each.get("id")}
        bills = bills_of_invoices(connection, invoice_ids)
        known = payments_of(connection, invoice_ids)
        said = dict(known)
        payments: list[Payment] = []
        outcomes: dict[str, str] = {}
        for event in events:
            try:
                outcome, payment = _read(event, contents[event.event_id], bills)
            except (KeyError, TypeError, ValueError, OverflowError) as problem:
                outcome, payment = EventOutcome.SET_ASIDE, None
                put(connection, [_set_aside(event, problem).on()])
            if payment is not None:
                payments.append(payment)
                invoice_id = payment.stripe_invoice_id
                if _only_the_invoice_tells(known.get(invoice_id), said.get(invoice_id), payment):
                    outcome = EventOutcome.TO_LOOK_AT
                said[invoice_id] = newest(said.get(invoice_id, payment), payment)
            outcomes[event.event_id] = outcome
        news = keep_payments(connection, payments)
        touched = {payment.stripe_invoice_id for payment in payments}
        settled = settle(connection, invoice_ids=touched) if touched else 0
        mark_handled(connection, outcomes)
        return Handled(
            events=len(events),
            news=news,
            settled=settled,
            waiting=count_waiting(connection),
            to_look_at=sum(each == EventOutcome.TO_LOOK_AT for each in outcomes.values()),
        )


def _set_aside(event: Event, problem: Exception) -> Alert:
    """Return the alert on an event that cannot be read: it is kept, and all others are handled."""
    what = f"{type(problem).__name__}: {problem}"
    return Alert(
        key=f"{SET_ASIDE_KIND}:{event.event_id}"[:LONGEST_KEY],
        kind=SET_ASIDE_KIND,
        title=f"A Stripe event could not be read: {event.type}",
        body=body(
            f"Event {event.event_id} of {event.created_at:%Y-%m-%d %H:%M} UTC was set aside ({what}). "
            "All other events are handled.",
            "Next: look at it in Stripe's dashboard (Developers, Events). After an upgrade, handle it again: "
            "spell-billing events --again",
        ),
    )


def _read(
    event: Event, invoice: Mapping[str, Any], bills: Mapping[str, BillName]
) -> tuple[EventOutcome, Payment | None]:
    if not invoice:
        return EventOutcome.IGNORED_TYPE, None
    if "unreadable" in invoice:
        raise ValueError(invoice["unreadable"])
    if "look_at" in invoice:
        return EventOutcome.TO_LOOK_AT, None
    if invoice["status"] == "draft":
        return EventOutcome.DRAFT, None
    # A bill that is lost to the ledger still has its name in the invoice's metadata.
    bill = bills.get(invoice["id"]) or bill_named_by(invoice)
    if bill is None:
        return EventOutcome.NOT_OURS, None
    payment = payment_of(invoice, bill, as_of=event.created_at, way=event.way, failed=event.type in FAILURES)
    return EventOutcome.HANDLED, payment


def _only_the_invoice_tells(known: Payment | None, said: Payment | None, payment: Payment) -> bool:
    """Return whether an invoice may have been paid and be open again: a bank debit comes back.

    `known` is what the ledger has of it, `said` what events since then say as well.
    """
    if known is not None and known.status == "paid":
        return payment.status in _UNPAID
    if said is None:
        return False
    unpaid, paid = (said, payment) if payment.status == "paid" else (payment, said)
    # Stripe tells whole seconds.
    is_later = unpaid.as_of.replace(microsecond=0) > paid.as_of
    return unpaid.status in _UNPAID and paid.status == "paid" and is_later
