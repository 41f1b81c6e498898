"""Stripe's JSON of an invoice and of its lines."""

from typing import Any

from spell_billing.stripe_double.discounts import discount_json, taken_off_line_cents
from spell_billing.stripe_double.objects import ABSENT, Invoice, Line
from spell_billing.stripe_double.taxes import tax_json

EMBEDDED_LINES = 10
"""An invoice carries its first ten lines; the rest is behind `/v1/invoices/{id}/lines`."""

_PAGES = "https://invoice.stripe.com/i/double"


def invoice_json(invoice: Invoice) -> dict[str, Any]:
    """Return the invoice as Stripe answers it."""
    subtotal = invoice.total_cents - invoice.tax_cents + invoice.discount_cents
    finalized = invoice.finalized_at is not None
    shown = {
        "id": invoice.id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Stripe double",
        "account_tax_ids": None,
        # A credit note before the payment lowers what is due: what remains is due less paid.
        "amount_due": invoice.amount_due_cents - invoice.pre_payment_credit_cents,
        "amount_overpaid": 0,
        "amount_paid": invoice.amount_paid_cents,
        "amount_paid_off_stripe": invoice.paid_off_stripe_cents,
        "amount_remaining": invoice.amount_remaining_cents,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": invoice.attempt_count,
        "attempted": invoice.attempted,
        "auto_advance": invoice.auto_advance,
        "automatically_finalizes_at": None,
        "billing_reason": "manual",
        "collection_method": invoice.collection_method,
        "created": invoice.created,
        "currency": invoice.currency,
        "custom_fields": [{"name": name, "value": value} for name, value in invoice.custom_fields] or None,
        "customer": invoice.customer,
        "customer_account": None,
        "customer_address": None,
        "customer_email": invoice.customer_email,
        "customer_name": invoice.customer_name,
        "customer_phone": None,
        "customer_shipping": None,
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": invoice.description,
        "due_date": invoice.due_date,
        "effective_at": invoice.effective_at,
        "ending_balance": invoice.ending_balance_cents,
        "footer": invoice.footer,
        "from_invoice": None
        if invoice.from_invoice is None
        else {"action": "revision", "invoice": invoice.from_invoice},
        "hosted_invoice_url": f"{_PAGES}/{invoice.id}" if finalized else None,
        "invoice_pdf": f"{_PAGES}/{invoice.id}/pdf" if finalized else None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": invoice.latest_revision,
        "lines": {
            "object": "list",
            "data": [line_json(line, invoice.id, invoice) for line in invoice.lines[:EMBEDDED_LINES]],
            "has_more": len(invoice.lines) > EMBEDDED_LINES,
            "url": f"/v1/invoices/{invoice.id}/lines",
        },
        "livemode": False,
        "metadata": dict(invoice.metadata),
        "next_payment_attempt": invoice.next_payment_attempt,
        "number": invoice.number,
        "on_behalf_of": None,
        "parent": None,
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": invoice.created,
        "period_start": invoice.created,
        "post_payment_credit_notes_amount": invoice.post_payment_credit_cents,
        "pre_payment_credit_notes_amount": invoice.pre_payment_credit_cents,
        "receipt_number": None,
        "rendering": None,
        "shipping_cost": None,
        "shipping_details": None,
        "starting_balance": invoice.starting_balance_cents,
        "statement_descriptor": invoice.statement_descriptor,
        "status": invoice.status,
        "status_transitions": {
            "finalized_at": invoice.finalized_at,
            "marked_uncollectible_at": invoice.uncollectible_at,
            "paid_at": invoice.paid_at,
            "voided_at": invoice.voided_at,
        },
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal,
        "test_clock": invoice.test_clock,
        "total": invoice.total_cents,
        "total_pretax_credit_amounts": [],
        **discount_json(invoice),
        **tax_json(invoice),
        "webhooks_delivered_at": invoice.created,
        **invoice.shown,
    }
    return {name: value for name, value in shown.items() if value != ABSENT}


def line_json(line: Line, invoice_id: str | None, invoice: Invoice | None = None) -> dict[str, Any]:
    """Return a line as Stripe answers it, with what the discount of its invoice takes off."""
    taken_off = []
    if invoice is not None and invoice.discount is not None:
        cents = taken_off_line_cents(line, invoice.discount_percent)
        taken_off = [{"amount": cents, "discount": invoice.discount}]
    return {
        "id": line.id,
        "object": "line_item",
        "amount": line.amount_cents,
        "currency": line.currency,
        "description": line.description,
        "discount_amounts": taken_off,
        "discountable": line.discountable,
        "discounts": [],
        "invoice": invoice_id,
        "livemode": False,
        "metadata": dict(line.metadata),
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
        "period": {"end": line.period_end, "start": line.period_start},
        "pretax_credit_amounts": [],
        "pricing": pricing_json(line),
        "quantity": line.quantity,
        "quantity_decimal": str(line.quantity),
        "subtotal": line.amount_cents,
        "taxes": [],
    }


def pricing_json(line: Line) -> dict[str, Any]:
    """Return the pricing of a line: one inline price."""
    return {
        "price_details": {"price": f"price_{line.item}", "product": line.product or f"prod_{line.item}"},
        "type": "price_details",
        "unit_amount_decimal": line.unit_amount_decimal,
    }
