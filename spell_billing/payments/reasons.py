"""Asks Stripe why payments failed: once per failed attempt, a few at a time."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy.engine import Connection

from spell_billing.core.errors import StripeAccountError, StripeSilentError
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import retrieve
from spell_billing.invoicing.payment_facts import NOT_GIVEN, REASONS, bill_named_by, payment_of
from spell_billing.ledger.credit_notes import known_back_cents
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.payments import Payment, keep_payments, payments_of
from spell_billing.ledger.settling import settle
from spell_billing.ledger.unpaid import BillName, bills_of_invoices, failures_without_reason
from spell_billing.payments.given_back import News, tell_given_back
from spell_billing.stripe_api.client import Invoice

WAY = "stripe invoice"
"""How news came in that was read from an invoice itself."""

_AT_ONCE = 8


async def look_up_reasons(ledger: Ledger, gateway: Gateway, limit: int) -> int:
    """Ask why payments failed where it is not known, the latest first; return how many were asked for.

    Each takes one request, which also tells how the payment stands by now.
    """
    invoice_ids = ledger.read(failures_without_reason, limit)
    for start in range(0, len(invoice_ids), _AT_ONCE):
        group = invoice_ids[start : start + _AT_ONCE]
        as_of = datetime.now(UTC)
        try:
            found = await retrieve_all(gateway, group)
        except StripeSilentError:
            raise
        except StripeAccountError:
            # A restricted key may read invoices and not payment intents: the alerts come without the reason.
            found = [None] * len(group)
        with ledger.writing() as connection:
            known = payments_of(connection, group)
            answered = [
                _answered(known[invoice_id], invoice, as_of)
                for invoice_id, invoice in zip(group, found, strict=True)
                if invoice_id in known
            ]
            keep_payments(connection, answered)
            settle(connection, invoice_ids=group)
    return len(invoice_ids)


async def retrieve_all(gateway: Gateway, invoice_ids: Sequence[str]) -> list[Invoice | None]:
    """Retrieve invoices with what tells why their payments failed; None for one that Stripe does not have."""
    return await asyncio.gather(
        *(retrieve(gateway, invoice_id, expand=[REASONS]) for invoice_id in invoice_ids)
    )


def keep_invoices(connection: Connection, found: Sequence[Invoice], as_of: datetime) -> int:
    """Write down how payments of our finalized invoices stand, and settle their bills; return how many."""
    finalized = [invoice for invoice in found if invoice["status"] != "draft"]
    bills = bills_of_invoices(connection, [invoice["id"] for invoice in finalized])
    named = [(invoice, bills.get(invoice["id"]) or bill_named_by(invoice)) for invoice in finalized]
    read = [
        (invoice, payment_of(invoice, bill, as_of=as_of, way=WAY))
        for invoice, bill in named
        if bill is not None
    ]
    if read:
        keep_payments(connection, [payment for _, payment in read])
        settle(connection, invoice_ids=[payment.stripe_invoice_id for _, payment in read])
    for invoice, payment in read:
        news = News(payment, str(invoice["currency"]), payment.credited_cents)
        if news.given_back_cents > (known_cents := known_back_cents(connection, payment)):
            tell_given_back(connection, news, known_cents=known_cents)
    return len(read)


def _answered(payment: Payment, invoice: Invoice | None, as_of: datetime) -> Payment:
    """Return what was learned; a failure always ends up with a reason, so that it is asked for once."""
    if invoice is None or invoice["status"] == "draft":
        return replace(payment, decline_code=NOT_GIVEN)
    bill = BillName(payment.month, payment.user_id, payment.generation)
    read = payment_of(invoice, bill, as_of=as_of, way=WAY)
    if read.status == "open" and read.failed_attempts < payment.failed_attempts:
        # A new attempt is under way: the reason of the failed one is gone.
        return replace(read, failed_attempts=payment.failed_attempts, decline_code=NOT_GIVEN)
    return replace(read, decline_code=read.decline_code or NOT_GIVEN) if read.failed_attempts else read
