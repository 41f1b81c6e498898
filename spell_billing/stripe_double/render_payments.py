"""Stripe's JSON of an invoice's payments, which an invoice shows only where they are expanded."""

from collections.abc import Sequence
from typing import Any

from spell_billing.stripe_double.objects import Charge, Invoice
from spell_billing.stripe_double.render_invoice import invoice_json

INTENT_OF_PAYMENT = "payments.data.payment.payment_intent"


def with_payments(invoice: Invoice, charges: Sequence[Charge], *, expand_intent: bool) -> dict[str, Any]:
    """Return the invoice with its `payments`: the default one, from its finalization on.

    Args:
        invoice: The invoice.
        charges: The customer's, oldest first.
        expand_intent: Show the payment intent instead of its id.
    """
    shown = (
        [] if invoice.payment_intent is None else [_payment(invoice, charges, expand_intent=expand_intent)]
    )
    url = f"/v1/invoice_payments?invoice={invoice.id}"
    payments = {"object": "list", "data": shown, "has_more": False, "url": url}
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
    status = {"paid": "succeeded", "void": "canceled"}.get(invoice.status, waiting)
    error = None
    if last is not None and last.failure_code is not None:
        error = {
            "charge": last.id,
            "code": last.failure_code,
            "decline_code": last.decline_code,
            "message": "Your card has insufficient funds."
            if last.decline_code == "insufficient_funds"
            else "Your card was declined.",
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
        "status": status,
    }
