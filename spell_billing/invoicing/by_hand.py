"""What a person did to an invoice at Stripe: a revision, another total, cleared metadata, a void."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace

from msgspec.structs import asdict

from spell_billing.core.keys import GENERATION, KEY, MONTH, USER, invoice_metadata
from spell_billing.core.lines import CHANGED, Line, dump_lines, lines_hash
from spell_billing.core.money import format_money
from spell_billing.core.outcomes import INVOICED, Reason, State
from spell_billing.invoicing.adoption import charged_cents, standing
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import STATE_OF_STATUS
from spell_billing.invoicing.report import SweepResult
from spell_billing.ledger.rows import Bill, Change, line_sums
from spell_billing.ledger.session import MonthSession
from spell_billing.stripe_api.client import Invoice


def revised_from(invoice: Invoice) -> str | None:
    """Return the invoice that this one revises, as when somebody edits an open invoice in the dashboard.

    Stripe drafts the revision, and voids the original when the revision is finalized:
    https://docs.stripe.com/invoicing/invoice-edits
    """
    original: str | None = (invoice.get("from_invoice") or {}).get("invoice")
    return original


def is_revision_of_another(invoice: Invoice, bill: Bill) -> bool:
    """Return whether a finalized invoice revises one that the bill was, or still is, invoiced with."""
    return (
        revised_from(invoice) is not None
        and bill.state in INVOICED | {State.PARKED}
        and bill.stripe_invoice_id != str(invoice["id"])
    )


def as_it_stands(bill: Bill, invoice: Invoice) -> Bill:
    """Return the bill with the total that a person gave the invoice.

    The usage stays as it was billed, and the difference is a line of its own, so that late usage of the month
    is charged as ever, and what was given away is not charged again.
    """
    kept = [line for line in bill.parsed_lines if line.kind != CHANGED]
    total_cents = charged_cents(bill.parsed_terms, invoice)
    change_cents = total_cents - sum(line.amount_cents for line in kept)
    if change_cents:
        text = f"Changed at Stripe ({format_money(change_cents, bill.currency)})"
        kept.append(Line(CHANGED, text, change_cents, bill.month))
    customer = bill.stripe_customer_id or ""
    return replace(
        bill,
        total_cents=total_cents,
        lines=dump_lines(kept),
        lines_hash=lines_hash(customer, bill.currency, bill.description, kept, bill.terms),
        **asdict(line_sums(kept)),
        **standing(invoice, bill),
    )


def both_amounts(bill: Bill, invoice: Invoice) -> str:
    """Say what stands at Stripe and what the ledger billed."""
    there = format_money(charged_cents(bill.parsed_terms, invoice), str(invoice["currency"]))
    return f"{there} at Stripe ({invoice['status']}), {format_money(bill.total_cents, bill.currency)} billed"


async def name_again(
    session: MonthSession, gateway: Gateway, invoice: Invoice, bill: Bill | None, result: SweepResult
) -> Invoice:
    """Write back the metadata that names the bill, where somebody cleared or changed it.

    Returns the invoice with the metadata that names `bill`, which is the ledger's by the invoice's id; the
    result takes down each invoice whose metadata was restored.
    """
    if bill is None:
        return invoice
    metadata = invoice_metadata(bill.month, bill.user_id, bill.generation, bill.lines_hash, bill.calls)
    if all(invoice["metadata"].get(name) == metadata[name] for name in (KEY, MONTH, USER, GENERATION)):
        return invoice
    if invoice["status"] in STATE_OF_STATUS and bill.state in INVOICED:
        path = f"/v1/invoices/{invoice['id']}"
        await gateway.send("POST /v1/invoices/{invoice}", "post", path, {"metadata": metadata})
        await asyncio.to_thread(session.apply, [Change(bill, bill, "metadata_restored")])
        result.renamed.append(f"{invoice['id']} of user {bill.user_id}")
    return {**invoice, "metadata": {**invoice["metadata"], **metadata}}


def predecessors(revision: Invoice, voided: Sequence[Invoice]) -> set[str]:
    """Return the ids of the original and of the revisions between it and this one: all of these are void."""
    sources = {invoice["id"]: revised_from(invoice) for invoice in voided}
    found: set[str] = set()
    source = revised_from(revision)
    while source is not None and source not in found:
        found.add(source)
        source = sources.get(source)
    return found


def voided_by_a_person(bill: Bill, bills: Iterable[Bill], invoice_id: str) -> Change:
    """Return the change that parks a bill whose invoice is void, and not by our own command.

    Where a later generation, among the user's `bills`, took its place, it becomes void itself.
    """
    if any(other.user_id == bill.user_id and other.generation > bill.generation for other in bills):
        state, reason, message, action = State.VOID, Reason.VOIDED, bill.message, "superseded"
    else:
        state, reason, message, action = State.PARKED, Reason.VOIDED_AT_STRIPE, None, "parked"
    after = replace(bill, state=state, reason=reason, message=message, stripe_invoice_id=invoice_id)
    return Change(bill, after, action)
