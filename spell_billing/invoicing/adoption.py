"""How the ledger takes up an invoice as it stands at Stripe: what it charges, and what a person did to it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from spell_billing.core.keys import CALLS, HASH, LINE_CENTS, WITHOUT_COUPON
from spell_billing.core.late import BillOf, Usage
from spell_billing.core.lines import (
    CHANGED,
    LATE_USAGE,
    MOVED,
    RECORDED,
    UNBILLED,
    USAGE,
    Line,
    dump_lines,
    lines_hash,
)
from spell_billing.core.money import exact_sum, format_money, plain
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, Reason, State
from spell_billing.core.terms import CHARGE, OFF, ON, SEND, Terms, dump_terms
from spell_billing.invoicing.lookups import STATE_OF_STATUS
from spell_billing.ledger.rows import Bill, Change, line_sums
from spell_billing.ledger.unpaid import BillName
from spell_billing.stripe_api.client import Invoice


def charged_cents(terms: Terms, invoice: Invoice) -> int:
    """Return an invoice's total without what its terms let Stripe put beside it: what the lines charge.

    Anything that the terms do not provide for stays in it, and shows as a difference.
    """
    there = beside(terms, invoice)
    return int(invoice["total"]) - (there["tax_cents"] or 0) + (there["discount_cents"] or 0)


def beside(terms: Terms, invoice: Invoice) -> dict[str, Any]:
    """Return the columns of a bill for what Stripe put beside the total; null where nothing was computed."""
    taxed = terms.is_taxed and is_taxed(invoice)
    return {
        "tax_cents": _tax_on_top_cents(invoice) if taxed else None,
        "discount_cents": _discount_cents(invoice) if terms.discounts else None,
    }


def is_taxed(invoice: Invoice) -> bool:
    """Return whether Stripe computes the tax of an invoice."""
    return bool((invoice.get("automatic_tax") or {}).get("enabled"))


def terms_seen(invoice: Invoice, lines: Sequence[Invoice] = ()) -> Terms:
    """Return the terms that an invoice at Stripe was made on, as far as amounts and payment need them.

    Lines from which plans were taken off were made for a coupon, if one may take something off them, or else
    for tax, which may have been left out afterwards.
    """
    sent = invoice.get("collection_method") == "send_invoice"
    is_net = any(LINE_CENTS in (line["metadata"] or {}) for line in lines)
    discounted = bool(_discount_cents(invoice)) or (is_net and any(line["discountable"] for line in lines))
    taxed = is_taxed(invoice) or (is_net and not discounted)
    return Terms(SEND if sent else CHARGE, tax=ON if taxed else OFF, discounts=discounted)


def _discount_cents(invoice: Invoice) -> int:
    discounts: list[dict[str, Any]] = invoice.get("total_discount_amounts") or []
    return sum(int(each["amount"]) for each in discounts)


def _tax_on_top_cents(invoice: Invoice) -> int:
    """Sum exclusive tax: inclusive tax is a part of the lines."""
    taxes: list[dict[str, Any]] = invoice.get("total_taxes") or []
    return sum(int(each["amount"]) for each in taxes if each["tax_behavior"] == "exclusive")


def standing(invoice: Invoice, bill: Bill | None) -> dict[str, Any]:
    """Return the columns that say that the invoice stands at Stripe, on the bill's terms."""
    seconds = (invoice.get("status_transitions") or {}).get("finalized_at")
    return {
        "state": STATE_OF_STATUS[invoice["status"]],
        "reason": None,
        "message": None,
        "stripe_invoice_id": invoice["id"],
        "finalized_at": datetime.fromtimestamp(int(seconds), UTC) if seconds else None,
        **beside(bill.parsed_terms if bill else terms_seen(invoice), invoice),
    }


def adopted_content(
    invoice: Invoice, lines: Sequence[Invoice], month: Month, frozen: Bill | None
) -> dict[str, Any]:
    """Return the columns of a bill as a finalized invoice with all of its lines fills them.

    What the frozen usage has beyond it stands as unbilled, for a later draft. `frozen` is the bill whose
    usage the invoice stands for; None when the ledger has none.
    """
    billed, terms = _lines(lines, month), terms_seen(invoice, lines)
    calls = int(invoice["metadata"].get(CALLS, "0"))
    usage_cents = exact_sum(*(Decimal(line.usage_cents) for line in billed if line.kind == USAGE))
    drafted = frozen.parsed_lines if frozen else ()
    moved = (line for line in drafted if line.kind == MOVED)
    kept = [*billed, *moved, *_late_left_open(billed, drafted)]
    unbilled_calls, unbilled_usage_cents = 0, Decimal(0)
    if frozen is not None:
        unbilled_calls = frozen.calls + frozen.unbilled_calls - calls
        unbilled_usage_cents = exact_sum(_frozen_cents(frozen), usage_cents.copy_negate())
    return {
        "stripe_customer_id": invoice["customer"],
        "currency": invoice["currency"],
        "calls": calls,
        "usage_cents": usage_cents,
        "unbilled_calls": unbilled_calls,
        "unbilled_usage_cents": unbilled_usage_cents,
        "total_cents": charged_cents(terms, invoice),
        "carried_cents": 0,
        **line_sums(kept),
        "description": invoice["description"] or "",
        "lines": dump_lines(kept),
        "lines_hash": invoice["metadata"].get(HASH, ""),
        "terms": dump_terms(terms),
        **beside(terms, invoice),
    }


def with_recorded(frozen: Bill, recorded: Mapping[BillOf, Usage]) -> Bill:
    """Return a bill with a line, without amount, for what was recorded for its user after it was drafted."""
    left = {of: usage for (user, of), usage in recorded.items() if user == frozen.user_id}
    for line in frozen.parsed_lines:
        if line.kind in RECORDED and line.usage_month in left:
            left[line.usage_month] -= Usage(line.calls, Decimal(line.usage_cents))
    return replace(frozen, lines=dump_lines([*frozen.parsed_lines, *_left_lines(left)]))


def new_bill_of(name: BillName, frozen: Bill | None, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a bill that the ledger lacks, for an invoice that names it.

    `frozen` is an earlier generation, whose usage the invoice stands for; `content` is by `adopted_content`.
    """
    return {
        "month": name.month,
        "user_id": name.user_id,
        "generation": name.generation,
        "plan_id": frozen.plan_id if frozen else None,
        "included_cents": frozen.included_cents if frozen else 0,
        "rating": frozen.rating if frozen else None,
        "stripe_request_id": None,
        "request_attempt": 1,
        **content,
        **({} if frozen else {"calls": 0, "usage_cents": Decimal(0)}),
    }


def adoption_detail(frozen: Bill, content: Mapping[str, Any]) -> str:
    """Return for the audit trail how far the invoice and the frozen usage are apart."""
    billed = plain(content["usage_cents"])
    return f"Stripe billed {billed} cents of usage, frozen are {plain(_frozen_cents(frozen))}"


def _frozen_cents(bill: Bill) -> Decimal:
    return exact_sum(bill.usage_cents, bill.unbilled_usage_cents)


def _late_left_open(billed: Iterable[Line], frozen: Iterable[Line]) -> Iterator[Line]:
    """Yield a line without amount where a month's frozen late usage is not what the invoice holds."""
    left: defaultdict[str, Usage] = defaultdict(Usage)
    for line in frozen:
        if line.kind in {LATE_USAGE, UNBILLED}:
            left[line.usage_month] += Usage(line.calls, Decimal(line.usage_cents))
    for line in billed:
        if line.kind == LATE_USAGE:
            left[line.usage_month] -= Usage(line.calls, Decimal(line.usage_cents))
    yield from _left_lines(left)


def _left_lines(left: Mapping[str, Usage]) -> Iterator[Line]:
    for month, usage in sorted(left.items()):
        if usage:
            cents, label = plain(usage.cents), Month.parse(month).label
            text = f"Left for a later invoice - {label} ({usage.calls} calls, {cents} cents)"
            yield Line(UNBILLED, text, 0, month, usage.calls, cents)


def _lines(lines: Sequence[Invoice], month: Month) -> list[Line]:
    """Return the ledger's lines: as they were before plans were taken off, unless a person changed them."""
    found = [_line(line, month) for line in lines]
    before = [int((line["metadata"] or {}).get(LINE_CENTS) or line["amount"]) for line in lines]
    if sum(before) != sum(line.amount_cents for line in found):
        return found
    return [
        msgspec.structs.replace(line, amount_cents=cents) for line, cents in zip(found, before, strict=True)
    ]


def _line(line: Invoice, month: Month) -> Line:
    metadata: Mapping[str, str] = line["metadata"] or {}
    return Line(
        kind=metadata.get("spell_kind", "unknown"),
        description=line["description"] or "",
        amount_cents=int(line["amount"]),
        usage_month=metadata.get("spell_month", str(month)),
        calls=int(metadata.get("spell_calls", "0")),
        usage_cents=metadata.get("spell_usage_cents", "0"),
        grant_id=metadata.get("spell_grant", msgspec.UNSET),
        without_coupon=True if WITHOUT_COUPON in metadata else msgspec.UNSET,
    )


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
        **line_sums(kept),
        **standing(invoice, bill),
    )


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
