"""The one way in for Stripe's events: into the inbox, then into the ledger, each once and in any order.

The sensor and the webhook both call `receive` with the events as Stripe renders them, then `handle_waiting`.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.core.keys import GENERATION, KEY, MONTH, USER
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.payment_facts import bill_named_by, payment_of
from spell_billing.ledger.events import Event, count_waiting, mark_handled, receive_events, waiting_events
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.payments import Payment, keep_payments
from spell_billing.ledger.settling import settle
from spell_billing.ledger.unpaid import BillName, bills_of_invoices
from spell_billing.payments.reasons import look_up_reasons

FAILURES = frozenset({"invoice.payment_failed", "invoice.payment_action_required"})
"""Events that say that the last attempt failed; a snapshot alone does not always tell."""

_KEPT = (
    *("id", "status", "attempt_count", "next_payment_attempt", "amount_due", "amount_paid"),
    *("hosted_invoice_url", "invoice_pdf"),
)
_KEPT_METADATA = (KEY, MONTH, USER, GENERATION)
_LONGEST_TYPE = 80
_REASONS_AT_ONCE = 20
"""So many failed payments' reasons are asked for after one batch; the sensor asks for the rest."""


class EventOutcome(StrEnum):
    """What became of an event, in `ledger_events.outcome`."""

    HANDLED = "handled"
    IGNORED_TYPE = "ignored_type"
    NOT_OURS = "not_ours"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Handled:
    """What one batch of the inbox led to.

    Attributes:
        events: Taken from the inbox.
        ignored: Of them, events that are not about a finalized invoice of ours.
        news: Invoices of whose payment something new is known.
        settled: Bills whose state changed.
        waiting: Events left in the inbox.
    """

    events: int = 0
    ignored: int = 0
    news: int = 0
    settled: int = 0
    waiting: int = 0


def receive(ledger: Ledger, events: Sequence[Mapping[str, Any]], way: str) -> int:
    """Put events into the inbox, each event id once.

    Args:
        ledger: The ledger.
        events: Event objects as Stripe renders them, of any type and any API version.
        way: How they came in, for the audit trail: `stripe events` or `webhook`.

    Returns:
        How many are new.
    """
    with ledger.writing() as connection:
        return put_into_inbox(connection, events, way)


def put_into_inbox(connection: Connection, events: Sequence[Mapping[str, Any]], way: str) -> int:
    """Do what `receive` does in a transaction that the caller has begun."""
    return receive_events(
        connection,
        [
            Event(
                event_id=event["id"],
                type=event["type"][:_LONGEST_TYPE],
                created_at=datetime.fromtimestamp(event["created"], UTC),
                way=way,
                content=json.dumps(_content(event)),
            )
            for event in events
        ],
    )


async def handle_waiting(ledger: Ledger, gateway: Gateway, limit: int) -> Handled:
    """Handle events of the inbox, the oldest first.

    Safe at any time and in any number of processes: an event is handled in one transaction with what follows
    from it. Voided invoices wait for the sensor's next tick, which parks their bills under the month's lock.

    Args:
        ledger: The ledger.
        gateway: To Stripe, which is asked why payments failed. When it does not say, the sensor asks again.
        limit: So many events at most.

    Raises:
        StripeProblem: when Stripe does not say why; the events are handled all the same.
        StripeAccountError: when nobody is answered.
    """
    handled = await asyncio.to_thread(handle_batch, ledger, limit)
    if handled.news:
        await look_up_reasons(ledger, gateway, _REASONS_AT_ONCE)
    return handled


def handle_batch(ledger: Ledger, limit: int) -> Handled:
    """Handle events of the inbox in one transaction, without Stripe."""
    with ledger.writing() as connection:
        events = waiting_events(connection, limit)
        if not events:
            return Handled()
        contents = {event.event_id: json.loads(event.content) for event in events}
        bills = bills_of_invoices(connection, {each["id"] for each in contents.values() if each})
        said: list[Payment] = []
        outcomes: dict[str, str] = {}
        for event in events:
            outcome, payment = _read(event, contents[event.event_id], bills)
            outcomes[event.event_id] = outcome
            if payment is not None:
                said.append(payment)
        news = keep_payments(connection, said)
        touched = {payment.stripe_invoice_id for payment in said}
        settled = settle(connection, invoice_ids=touched) if touched else 0
        mark_handled(connection, outcomes)
        return Handled(len(events), len(events) - len(said), news, settled, count_waiting(connection))


def _read(
    event: Event, invoice: Mapping[str, Any], bills: Mapping[str, BillName]
) -> tuple[EventOutcome, Payment | None]:
    if not invoice:
        return EventOutcome.IGNORED_TYPE, None
    if invoice["status"] == "draft":
        return EventOutcome.DRAFT, None
    # A bill that is lost to the ledger still has its name in the invoice's metadata.
    bill = bills.get(invoice["id"]) or bill_named_by(invoice)
    if bill is None:
        return EventOutcome.NOT_OURS, None
    payment = payment_of(invoice, bill, as_of=event.created_at, way=event.way, failed=event.type in FAILURES)
    return EventOutcome.HANDLED, payment


def _content(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the few fields of an event's invoice that are used; empty for an event about anything else."""
    invoice = event["data"]["object"]
    if not event["type"].startswith("invoice.") or invoice.get("object") != "invoice":
        return {}
    # Of an upcoming invoice Stripe gives a preview, which has no id.
    if invoice.get("id") is None:
        return {}
    metadata = invoice.get("metadata") or {}
    return {
        **{name: invoice.get(name) for name in _KEPT},
        "metadata": {name: metadata[name] for name in _KEPT_METADATA if name in metadata},
    }
