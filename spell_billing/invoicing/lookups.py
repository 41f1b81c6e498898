"""Questions to Stripe about our invoices, shared by all that bills and follows them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

from spell_billing.core.errors import StripeAccountError, StripeSilentError
from spell_billing.core.keys import KEY, billing_key
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.payment_facts import REASONS, is_unclear, payment_of
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.rows import Bill
from spell_billing.stripe_api.client import Invoice
from spell_billing.stripe_api.problems import Kind, StripeProblem

_CLOCK_MARGIN_SECONDS = 24 * 3600
"""Our clock may run ahead of Stripe's: look a day further back than the month's end."""

STATE_OF_STATUS: Mapping[str, State] = {
    "open": State.FINALIZED,
    "paid": State.PAID,
    "uncollectible": State.UNCOLLECTIBLE,
}
"""What the ledger calls a finalized invoice of each status."""


@contextmanager
def asking(refused: str, *, remedy: str) -> Iterator[None]:
    """Let a problem of what asks Stripe in the block reach operators; `refused` begins the message.

    Raises:
        StripeAccountError: when Stripe refused it; StripeSilentError: when it did not answer, or 429 only.
    """
    try:
        yield
    except StripeProblem as problem:
        silent = problem.kind in {Kind.TRANSIENT, Kind.LIMITED}
        error = StripeSilentError if silent else StripeAccountError
        raise error(f"{refused}: {problem.message.rstrip('.')}.", remedy=remedy) from None


def created_since_close(month: Month) -> dict[str, int]:
    """Return the `created` filter that finds every invoice of the month."""
    return {"gte": int(month.end.timestamp()) - _CLOCK_MARGIN_SECONDS}


async def invoices_of_bill(gateway: Gateway, bill: Bill) -> list[Invoice]:
    """List the customer's invoices that carry the bill's key and are not void."""
    key = billing_key(bill.month, bill.user_id, bill.generation)
    created = created_since_close(Month.parse(bill.month))
    return [
        invoice
        async for page in gateway.invoices(customer=bill.stripe_customer_id, created=created)
        for invoice in page
        if invoice["metadata"].get(KEY) == key and invoice["status"] != "void"
    ]


async def retrieve(gateway: Gateway, invoice_id: str, *, expand: Sequence[str] = ()) -> Invoice | None:
    """Return the invoice as it is now, or None when Stripe has none by that id.

    Fields to expand are at most four levels deep.
    """
    parameters = {"expand": list(expand)} if expand else None
    try:
        answer = await gateway.send("GET /v1/invoices/{invoice}", parameters, invoice=invoice_id)
    except StripeProblem as problem:
        if problem.kind is Kind.MISSING:
            return None
        raise
    return None if answer.object.get("deleted") else answer.object


async def payment_now(
    gateway: Gateway, invoice: Invoice, bill: Bill, *, as_of: datetime, way: str
) -> Payment:
    """Return how a listed invoice's payment stands; Stripe is asked where the list does not tell."""
    if bill.state is State.FINALIZED and is_unclear(invoice):
        invoice = await retrieve(gateway, invoice["id"], expand=[REASONS]) or invoice
    return payment_of(invoice, bill, as_of=as_of, way=way)


async def all_lines(gateway: Gateway, invoice: Invoice) -> list[Invoice]:
    """Return all lines of an invoice: the object itself holds the first ten."""
    lines: list[Invoice] = list(invoice["lines"]["data"])
    if invoice["lines"]["has_more"]:
        after = {"starting_after": lines[-1]["id"]}
        async for page in gateway.pages("GET /v1/invoices/{invoice}/lines", after, invoice=invoice["id"]):
            lines.extend(page)
    return lines


async def delete_draft(gateway: Gateway, invoice_id: str) -> bool:
    """Delete a draft of ours; False when it is no draft any more.

    Where the outcome is unknown, a StripeProblem, the next run's sweep deletes the draft.
    """
    try:
        await gateway.send("DELETE /v1/invoices/{invoice}", invoice=invoice_id)
    except StripeProblem as problem:
        if problem.kind is Kind.MISSING:
            return True
        if problem.kind is Kind.PERMANENT:
            return False
        raise
    return True
