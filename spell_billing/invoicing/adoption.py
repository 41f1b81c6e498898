"""What an invoice at Stripe charges, and how the ledger keeps one that it finds there."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from msgspec.structs import asdict

from spell_billing.core.drafting import LATE_USAGE, UNBILLED, USAGE, Line, dump_lines
from spell_billing.core.keys import CALLS, HASH
from spell_billing.core.lines import MOVED
from spell_billing.core.money import exact_sum, plain
from spell_billing.core.month import Month
from spell_billing.core.terms import CHARGE, OFF, ON, SEND, Terms, dump_terms
from spell_billing.invoicing.lookups import STATE_OF_STATUS, finalized_at
from spell_billing.ledger.rows import Bill, line_sums
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


def terms_seen(invoice: Invoice) -> Terms:
    """Return the terms that an invoice at Stripe was made on, as far as amounts and payment need them."""
    sent = invoice.get("collection_method") == "send_invoice"
    discounted = bool(_discount_cents(invoice))
    return Terms(SEND if sent else CHARGE, tax=ON if is_taxed(invoice) else OFF, discounts=discounted)


def _discount_cents(invoice: Invoice) -> int:
    """Sum what coupons take off the lines."""
    discounts: list[dict[str, Any]] = invoice.get("total_discount_amounts") or []
    return sum(int(each["amount"]) for each in discounts)


def _tax_on_top_cents(invoice: Invoice) -> int:
    """Sum exclusive tax: inclusive tax is a part of the lines."""
    taxes: list[dict[str, Any]] = invoice.get("total_taxes") or []
    return sum(int(each["amount"]) for each in taxes if each["tax_behavior"] == "exclusive")


def standing(invoice: Invoice, bill: Bill | None) -> dict[str, Any]:
    """Return the columns that say that the invoice stands at Stripe, on the bill's terms."""
    return {
        "state": STATE_OF_STATUS[invoice["status"]],
        "reason": None,
        "message": None,
        "stripe_invoice_id": invoice["id"],
        "finalized_at": finalized_at(invoice),
        **beside(bill.parsed_terms if bill else terms_seen(invoice), invoice),
    }


def adopted_content(
    invoice: Invoice, lines: Sequence[Invoice], month: Month, frozen: Bill | None
) -> dict[str, Any]:
    """Return the columns of a bill as a finalized invoice with all of its lines fills them.

    What the frozen usage has beyond it stands as unbilled, for a later draft. `frozen` is the bill whose
    usage the invoice stands for; None when the ledger has none.
    """
    billed, terms = [_line(line, month) for line in lines], terms_seen(invoice)
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
        **asdict(line_sums(kept)),
        "description": invoice["description"] or "",
        "lines": dump_lines(kept),
        "lines_hash": invoice["metadata"].get(HASH, ""),
        "terms": dump_terms(terms),
        **beside(terms, invoice),
    }


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
    calls: Counter[str] = Counter()
    cents: defaultdict[str, list[Decimal]] = defaultdict(list)
    for line in frozen:
        if line.kind in {LATE_USAGE, UNBILLED}:
            calls[line.usage_month] += line.calls
            cents[line.usage_month].append(Decimal(line.usage_cents))
    for line in billed:
        if line.kind == LATE_USAGE:
            calls[line.usage_month] -= line.calls
            cents[line.usage_month].append(Decimal(line.usage_cents).copy_negate())
    for usage_month in sorted(cents):
        left = exact_sum(*cents[usage_month])
        if calls[usage_month] or left:
            label = Month.parse(usage_month).label
            text = f"Left for a later invoice - {label} ({calls[usage_month]} calls, {plain(left)} cents)"
            yield Line(UNBILLED, text, 0, usage_month, calls[usage_month], plain(left))


def _line(line: Invoice, month: Month) -> Line:
    metadata: Mapping[str, str] = line["metadata"] or {}
    return Line(
        kind=metadata.get("spell_kind", "unknown"),
        description=line["description"] or "",
        amount_cents=int(line["amount"]),
        usage_month=metadata.get("spell_month", str(month)),
        calls=int(metadata.get("spell_calls", "0")),
        usage_cents=metadata.get("spell_usage_cents", "0"),
    )
