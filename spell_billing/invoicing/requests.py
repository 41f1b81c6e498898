"""The requests of an invoice. Each body depends on nothing but the ledger's row.

Stripe API reference: create an invoice, bulk add invoice line items, finalize an invoice.
"""

from collections.abc import Sequence
from typing import Any

from spell_billing.core.keys import LINE_CENTS, WITHOUT_COUPON, idempotency_key, invoice_metadata
from spell_billing.core.lines import Line, net_amounts, shown_lines
from spell_billing.core.month import Month
from spell_billing.core.terms import ENFORCED, OFF
from spell_billing.invoicing.adoption import charged_cents, is_taxed
from spell_billing.ledger.rows import Bill
from spell_billing.stripe_api.client import Invoice

CREATE = "POST /v1/invoices"
ADD_LINES = "POST /v1/invoices/{invoice}/add_lines"
FINALIZE = "POST /v1/invoices/{invoice}/finalize"
LEAVE_TAX_OUT = "POST /v1/invoices/{invoice}"
FINALIZE_PARAMETERS = {"auto_advance": True}
"""From then on Stripe collects, or mails the invoice, by itself."""
UNTAXED_PARAMETERS = {"automatic_tax": {"enabled": False}}
"""Takes the tax off a draft whose customer Stripe cannot place."""
STEPS = {ADD_LINES: "lines", FINALIZE: "finalize", LEAVE_TAX_OUT: "untaxed"}
"""What a step on a draft is called in its key."""
PO_NUMBER = "PO number"
"""Names the field of the invoice that shows the customer's purchase order number."""


def create_parameters(bill: Bill) -> dict[str, Any]:
    """Return the body that creates the draft: no pending item, and no discount unless it is honoured."""
    terms = bill.parsed_terms
    return {
        "customer": bill.stripe_customer_id,
        "currency": bill.currency,
        "collection_method": "send_invoice" if terms.is_sent else "charge_automatically",
        "auto_advance": False,
        "pending_invoice_items_behavior": "exclude",
        **({} if terms.discounts else {"discounts": ""}),
        "description": bill.description,
        "metadata": invoice_metadata(bill.month, bill.user_id, bill.generation, bill.lines_hash, bill.calls),
        **({"days_until_due": terms.net_days} if terms.is_sent else {}),
        **({"custom_fields": [{"name": PO_NUMBER, "value": terms.po_number}]} if terms.po_number else {}),
        **({"footer": terms.footer} if terms.footer else {}),
        **({} if terms.tax == OFF else {"automatic_tax": {"enabled": terms.is_taxed}}),
    }


def lines_parameters(bill: Bill) -> dict[str, Any]:
    """Return the body that adds the frozen lines."""
    discounts = bill.parsed_terms.discounts
    return {"lines": [_line_parameters(line, cents, discounts=discounts) for line, cents in _shown(bill)]}


def is_done(endpoint: str, invoice: Invoice) -> bool:
    """Return whether an invoice shows that a step on its draft was done."""
    if invoice["status"] != "draft":
        return True
    if endpoint == LEAVE_TAX_OUT:
        return not is_taxed(invoice)
    return endpoint == ADD_LINES and bool(invoice["lines"]["data"])


def create_key(bill: Bill, number: int) -> str:
    """Return the Idempotency-Key that creates the bill's draft; numbers go up to its `request_attempt`."""
    return idempotency_key(bill.month, bill.user_id, bill.generation, "create", number)


def step_key(bill: Bill, step: str, number: int) -> str:
    """Return the Idempotency-Key of a step (one of `STEPS`) on the bill's draft.

    It names the draft instead of the bill's attempt. Two ledgers can work on one draft with different
    attempts; with two keys its lines would be added twice. The number, from 1, is the next one when Stripe
    replays a failure for the one before.
    """
    named = f"{step}:{bill.stripe_invoice_id}"
    return idempotency_key(bill.month, bill.user_id, bill.generation, named, number)


def difference(bill: Bill, invoice: Invoice, lines: Sequence[Invoice]) -> str | None:
    """Compare the ledger's bill with the invoice at Stripe; None when lines, total and currency are equal.

    Compared is the total before discount and tax, which stand beside it.
    """
    expected = sorted((line.description, cents) for line, cents in _shown(bill))
    found = sorted((str(line["description"]), int(line["amount"])) for line in lines)
    if invoice["currency"] != bill.currency:
        return f"currency {invoice['currency']} instead of {bill.currency}"
    if len(found) != len(expected):
        return f"{len(found)} lines instead of {len(expected)}"
    if found != expected:
        return "other lines than the ledger's"
    terms = bill.parsed_terms
    charged = charged_cents(terms, invoice)
    if charged != bill.total_cents:
        return f"total {charged} instead of {bill.total_cents}"
    return "no automatic tax" if terms.tax == ENFORCED and not is_taxed(invoice) else None


def misnamed(bill: Bill, invoice: Invoice) -> str | None:
    """Compare what names the draft with the bill; None when customer and metadata are the bill's."""
    if invoice["customer"] != bill.stripe_customer_id:
        return f"customer {invoice['customer']} instead of {bill.stripe_customer_id}"
    expected = create_parameters(bill)["metadata"]
    wrong = [name for name, value in expected.items() if invoice["metadata"].get(name) != value]
    return f"other metadata than the bill's ({', '.join(wrong)})" if wrong else None


def _shown(bill: Bill) -> list[tuple[Line, int]]:
    """Return the lines that the invoice shows, with what each charges there, in minor units."""
    shown = shown_lines(bill.parsed_lines, bill.currency)
    terms = bill.parsed_terms
    is_net = terms.is_taxed or terms.discounts
    amounts = net_amounts(shown) if is_net else [line.amount_cents for line in shown]
    return list(zip(shown, amounts, strict=True))


def _line_parameters(line: Line, cents: int, *, discounts: bool) -> dict[str, Any]:
    month = Month.parse(line.usage_month)
    return {
        "amount": cents,
        "description": line.description,
        "discountable": discounts and cents > 0 and line.without_coupon is not True,
        "period": {"start": month.first_second, "end": month.last_second},
        "metadata": {
            "spell_kind": line.kind,
            "spell_month": line.usage_month,
            "spell_calls": str(line.calls),
            "spell_usage_cents": line.usage_cents,
            **({"spell_grant": line.grant_id} if line.grant_id else {}),
            **({WITHOUT_COUPON: "true"} if line.without_coupon else {}),
            **({LINE_CENTS: str(line.amount_cents)} if cents != line.amount_cents else {}),
        },
    }
