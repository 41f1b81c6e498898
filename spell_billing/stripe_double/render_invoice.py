"""Stripe's JSON of an invoice, of its lines, and of its payments."""

from collections.abc import Sequence
from typing import Any

from spell_billing.stripe_double.adjustments import discount_json, taken_off_line_cents, tax_json
from spell_billing.stripe_double.objects import ABSENT, Charge, Invoice, Line, own_fields

EMBEDDED_LINES = 10
"""An invoice carries its first ten lines; the rest is behind `/v1/invoices/{id}/lines`."""

_PAGES = "https://invoice.stripe.com/i/double"
_OWN = (
    *("discount", "discount_percent", "discount_cents", "tax_cents", "tax_status"),
    *("paid_off_stripe_cents", "pre_payment_credit_cents", "post_payment_credit_cents", "payment_intent"),
    *("finalized_at", "paid_at", "voided_at", "uncollectible_at", "processing", "shown"),
)
"""Attributes that the JSON has elsewhere, or not at all."""
_SAME_FOR_ALL: dict[str, Any] = {
    "object": "invoice",
    "account_country": "US",
    "account_name": "Stripe double",
    "amount_overpaid": 0,
    "amount_shipping": 0,
    "billing_reason": "manual",
    "customer_tax_exempt": "none",
    "customer_tax_ids": [],
    "default_tax_rates": [],
    "issuer": {"type": "self"},
    "livemode": False,
    "payment_settings": dict.fromkeys(("default_mandate", "payment_method_options", "payment_method_types")),
    "total_pretax_credit_amounts": [],
    **dict.fromkeys(("account_tax_ids", "application", "automatically_finalizes_at", "customer_account")),
    **dict.fromkeys(("customer_address", "customer_phone", "customer_shipping", "default_payment_method")),
    **dict.fromkeys(("default_source", "last_finalization_error", "on_behalf_of", "parent")),
    **dict.fromkeys(("receipt_number", "rendering", "shipping_cost", "shipping_details")),
}


def invoice_json(invoice: Invoice) -> dict[str, Any]:
    """Return the invoice as Stripe answers it."""
    subtotal = invoice.total_cents - invoice.tax_cents + invoice.discount_cents
    page = None if invoice.finalized_at is None else f"{_PAGES}/{invoice.id}"
    original = invoice.from_invoice
    shown = {
        **own_fields(invoice, *_OWN),
        **_SAME_FOR_ALL,
        # A credit note before the payment lowers what is due: what remains is due less paid.
        "amount_due": invoice.amount_due_cents - invoice.pre_payment_credit_cents,
        "amount_paid_off_stripe": invoice.paid_off_stripe_cents,
        "amount_remaining": invoice.amount_remaining_cents,
        "custom_fields": [{"name": name, "value": value} for name, value in invoice.custom_fields] or None,
        "from_invoice": None if original is None else {"action": "revision", "invoice": original},
        "hosted_invoice_url": page,
        "invoice_pdf": page and f"{page}/pdf",
        "lines": {
            "object": "list",
            "data": [line_json(line, invoice) for line in invoice.lines[:EMBEDDED_LINES]],
            "has_more": len(invoice.lines) > EMBEDDED_LINES,
            "url": f"/v1/invoices/{invoice.id}/lines",
        },
        "period_end": invoice.created,
        "period_start": invoice.created,
        "post_payment_credit_notes_amount": invoice.post_payment_credit_cents,
        "pre_payment_credit_notes_amount": invoice.pre_payment_credit_cents,
        "status_transitions": {
            "finalized_at": invoice.finalized_at,
            "marked_uncollectible_at": invoice.uncollectible_at,
            "paid_at": invoice.paid_at,
            "voided_at": invoice.voided_at,
        },
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal,
        "webhooks_delivered_at": invoice.created,
        **discount_json(invoice),
        **tax_json(invoice),
        **invoice.shown,
    }
    return {name: value for name, value in shown.items() if value != ABSENT}


def line_json(line: Line, invoice: Invoice) -> dict[str, Any]:
    """Return a line as Stripe answers it, with what the discount of its invoice takes off."""
    taken_off = []
    if invoice.discount is not None:
        cents = taken_off_line_cents(line, invoice.discount_percent)
        taken_off = [{"amount": cents, "discount": invoice.discount}]
    return {
        **shared_with_item(line),
        "id": line.id,
        "object": "line_item",
        "discount_amounts": taken_off,
        "discountable": line.discountable,
        "invoice": invoice.id,
        "parent": {
            "invoice_item_details": {
                "invoice_item": line.item,
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": None,
            },
            "subscription_item_details": None,
            "type": "invoice_item_details",
        },
        "pretax_credit_amounts": [],
        "subtotal": line.amount_cents,
        "taxes": [],
    }


def shared_with_item(line: Line) -> dict[str, Any]:
    """Return the fields that a line and its invoice item have in common."""
    return {
        "amount": line.amount_cents,
        "currency": line.currency,
        "description": line.description,
        "discounts": [],
        "livemode": False,
        "metadata": dict(line.metadata),
        "period": {"end": line.period_end, "start": line.period_start},
        "pricing": {
            "price_details": {"price": f"price_{line.item}", "product": f"prod_{line.item}"},
            "type": "price_details",
            "unit_amount_decimal": str(line.amount_cents),
        },
        "quantity": 1,
        "quantity_decimal": "1",
    }


def with_payments(invoice: Invoice, charges: Sequence[Charge], *, expand_intent: bool) -> dict[str, Any]:
    """Return the invoice with its `payments`: the default one, from its finalization on.

    `charges` are the customer's, oldest first; `expand_intent` shows the payment intent instead of its id.
    """
    url = f"/v1/invoice_payments?invoice={invoice.id}"
    data = [] if invoice.payment_intent is None else [_payment(invoice, charges, expand_intent=expand_intent)]
    payments = {"object": "list", "data": data, "has_more": False, "url": url}
    return {**invoice_json(invoice), "payments": payments}


def _payment(invoice: Invoice, charges: Sequence[Charge], *, expand_intent: bool) -> dict[str, Any]:
    paid = invoice.status == "paid"
    return {
        "id": f"inpay_{invoice.id.removeprefix('in_')}",
        "object": "invoice_payment",
        "amount_paid": invoice.amount_paid_cents if paid else None,
        "amount_requested": invoice.amount_due_cents,
        "created": invoice.finalized_at,
        "currency": invoice.currency,
        "invoice": invoice.id,
        "is_default": True,
        "livemode": False,
        "payment": {
            "payment_intent": _intent(invoice, charges) if expand_intent else invoice.payment_intent,
            "type": "payment_intent",
        },
        "status": "paid" if paid else "canceled" if invoice.status == "void" else "open",
        "status_transitions": {
            "canceled_at": invoice.voided_at,
            "paid_at": invoice.paid_at if paid else None,
        },
    }


def _intent(invoice: Invoice, charges: Sequence[Charge]) -> dict[str, Any]:
    own = [charge for charge in charges if charge.payment_intent == invoice.payment_intent]
    last = own[-1] if own else None
    waiting = "processing" if invoice.processing else "requires_payment_method"
    error = None
    if last is not None and last.failure_code is not None:
        poor = last.decline_code == "insufficient_funds"
        error = {
            "charge": last.id,
            "code": last.failure_code,
            "decline_code": last.decline_code,
            "message": "Your card has insufficient funds." if poor else "Your card was declined.",
            "payment_method": {"id": f"pm_{invoice.customer}", "object": "payment_method", "type": "card"},
            "type": "card_error",
        }
    return {
        "id": invoice.payment_intent,
        "object": "payment_intent",
        "amount": invoice.amount_due_cents,
        "created": invoice.finalized_at,
        "currency": invoice.currency,
        "customer": invoice.customer,
        "last_payment_error": error,
        "latest_charge": last.id if last else None,
        "livemode": False,
        "status": {"paid": "succeeded", "void": "canceled"}.get(invoice.status, waiting),
    }
