"""Stripe's JSON of every object (API 2026-10-28). Pure: the same value always gives the same bytes."""

import json
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

from spell_billing.stripe_double.account import ACCOUNT_ID
from spell_billing.stripe_double.collection import Page
from spell_billing.stripe_double.objects import (
    Charge,
    CreditNote,
    Customer,
    Deleted,
    Dispute,
    Event,
    Invoice,
    InvoiceItem,
    Refund,
    own_fields,
)
from spell_billing.stripe_double.render_invoice import invoice_json, shared_with_item

API_VERSION = "2026-10-28.endive"
EMBEDDED_REFUNDS = 10
"""A charge whose refunds are expanded carries its last ten."""

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def to_bytes(value: object) -> bytes:
    """Serialise an object, a page of objects, or plain JSON."""
    return _encode(to_json(value)).encode()


def to_json(value: object) -> Any:
    """Return the JSON of an object, a page of objects, or plain JSON as it is."""
    render = _RENDERERS.get(type(value))
    return value if render is None else render(value)


def _page(page: Page) -> dict[str, Any]:
    data = [to_json(each) for each in page.data]
    return {"object": "list", "url": page.url, "has_more": page.has_more, "data": data}


def _deleted(deleted: Deleted) -> dict[str, Any]:
    return {"id": deleted.id, "object": deleted.object, "deleted": True}


def _event(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = {"object": to_json(event.snapshot)}
    if event.previous is not None:
        data["previous_attributes"] = dict(event.previous)
    return {
        "id": event.id,
        "object": "event",
        "api_version": API_VERSION,
        "created": event.created,
        "data": data,
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": event.request_id, "idempotency_key": event.idempotency_key},
        "type": event.type,
    }


def _customer(customer: Customer) -> dict[str, Any]:
    has_card = customer.metadata.get("double_card") != "none"
    return {
        **own_fields(customer, "balances_cents"),
        "object": "customer",
        "balance": customer.balances_cents.get(customer.currency or "usd", 0),
        "delinquent": False,
        "invoice_prefix": f"{crc32(customer.id.encode()):08X}",
        "invoice_settings": {
            **dict.fromkeys(("custom_fields", "footer", "rendering_options")),
            "default_payment_method": f"pm_{customer.id}" if has_card else None,
        },
        "livemode": False,
        "preferred_locales": [],
        "tax_exempt": "none",
        **dict.fromkeys(("address", "default_source", "discount", "shipping")),
    }


def _item(item: InvoiceItem) -> dict[str, Any]:
    return {
        **shared_with_item(item.line),
        "id": item.id,
        "object": "invoiceitem",
        "customer": item.customer,
        "date": item.created,
        "discountable": item.line.amount_cents >= 0,
        "invoice": item.invoice,
        "net_amount": item.line.amount_cents,
        "parent": None,
        "proration": False,
        "tax_rates": [],
        "test_clock": None,
    }


def _charge(charge: Charge) -> dict[str, Any]:
    paid = charge.failure_code is None
    return {
        **own_fields(charge, "invoice", "decline_code", "refunded_cents"),
        "object": "charge",
        "amount_captured": charge.amount_cents if paid else 0,
        "amount_refunded": charge.refunded_cents,
        "balance_transaction": None,
        "billing_details": dict.fromkeys(("address", "email", "name", "phone")),
        "captured": paid,
        "description": "Payment for Invoice",
        "failure_message": None if paid else "Your card was declined.",
        "livemode": False,
        "metadata": {},
        "paid": paid,
        "payment_method": f"pm_{charge.customer}",
        "refunded": charge.refunded_cents == charge.amount_cents,
        "status": "succeeded" if paid else "failed",
    }


def with_refunds(charge: Charge, refunds: Sequence[Refund]) -> dict[str, Any]:
    """Return the charge with its `refunds`, the newest first: the last ten of them."""
    shown = [_refund(each) for each in refunds[:EMBEDDED_REFUNDS]]
    more, url = len(refunds) > EMBEDDED_REFUNDS, f"/v1/charges/{charge.id}/refunds"
    return {**_charge(charge), "refunds": {"object": "list", "data": shown, "has_more": more, "url": url}}


def _dispute(dispute: Dispute) -> dict[str, Any]:
    return {
        **own_fields(dispute),
        "object": "dispute",
        "balance_transactions": [],
        "enhanced_eligibility_types": [],
        "evidence": {},
        "evidence_details": {},
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
    }


def _refund(refund: Refund) -> dict[str, Any]:
    shown = {**own_fields(refund, "failure_reason"), "object": "refund", "balance_transaction": None}
    return shown if refund.failure_reason is None else {**shown, "failure_reason": refund.failure_reason}


def _credit_note(note: CreditNote) -> dict[str, Any]:
    lines = {"object": "list", "data": [], "has_more": False, "url": f"/v1/credit_notes/{note.id}/lines"}
    refunded_cents = note.amount_cents - note.credit_cents - note.out_of_band_cents
    refund = {"amount_refunded": refunded_cents, "payment_record_refund": None, "type": "refund"}
    return {
        **own_fields(note, "pre_payment_cents", "credit_cents", "out_of_band_cents"),
        "object": "credit_note",
        "amount_shipping": 0,
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": note.created,
        "lines": lines,
        "livemode": False,
        "out_of_band_amount": note.out_of_band_cents or None,
        "pdf": f"https://pay.stripe.com/credit_notes/{ACCOUNT_ID}/{note.id}/pdf",
        "post_payment_amount": note.amount_cents - note.pre_payment_cents,
        "pre_payment_amount": note.pre_payment_cents,
        "pretax_credit_amounts": [],
        "refunds": [{**refund, "refund": each} for each in note.refunds],
        **dict.fromkeys(("subtotal", "subtotal_excluding_tax"), note.amount_cents),
        **dict.fromkeys(("total", "total_excluding_tax"), note.amount_cents),
        "total_taxes": [],
        "type": "pre_payment" if note.pre_payment_cents else "post_payment",
        "voided_at": note.voided_at,
    }


_RENDERERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Charge: _charge,
    CreditNote: _credit_note,
    Customer: _customer,
    Deleted: _deleted,
    Dispute: _dispute,
    Event: _event,
    Invoice: invoice_json,
    InvoiceItem: _item,
    Page: _page,
    Refund: _refund,
}
