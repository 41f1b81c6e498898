"""Stripe's JSON of every object (API 2026-10-28). Pure: the same value always gives the same bytes."""

import json
from collections.abc import Callable, Mapping
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
)
from spell_billing.stripe_double.render_invoice import invoice_json, pricing_json

API_VERSION = "2026-10-28.endive"

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def to_bytes(value: object) -> bytes:
    """Serialise an object, a page of objects, or plain JSON."""
    return _encode(to_json(value)).encode()


def to_json(value: object) -> Any:
    """Return the JSON of an object, a page of objects, or plain JSON as it is."""
    render = _RENDERERS.get(type(value))
    return value if render is None else render(value)


def account_json(account_id: str) -> dict[str, Any]:
    """Return the account that the double's keys belong to."""
    return {
        "id": account_id,
        "object": "account",
        "business_profile": {"name": "Stripe double", "url": None},
        "business_type": "company",
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": True,
        "controller": {"type": "account"},
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": "billing@example.com",
        "metadata": {},
        "payouts_enabled": True,
        "settings": {"dashboard": {"display_name": "Stripe double", "timezone": "Etc/UTC"}},
        "type": "standard",
    }


def portal_session_json(
    session_id: str, created: int, customer_id: str, params: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a session of the customer portal, at the start of the flow that was asked for."""
    flow = params.get("flow_data")
    after = flow.get("after_completion", {"type": "portal_homepage"}) if flow else {}
    return {
        "id": session_id,
        "object": "billing_portal.session",
        "configuration": params.get("configuration", "bpc_1"),
        "created": created,
        "customer": customer_id,
        "customer_account": None,
        "flow": flow
        and {
            "after_completion": {"hosted_confirmation": None, "redirect": None, **after},
            "subscription_cancel": None,
            "subscription_update": None,
            "subscription_update_confirm": None,
            "type": flow["type"],
        },
        "livemode": False,
        "locale": params.get("locale"),
        "on_behalf_of": None,
        "return_url": params.get("return_url"),
        "url": f"https://billing.stripe.com/p/session/test_{session_id}",
    }


def _page(page: Page) -> dict[str, Any]:
    return {
        "object": "list",
        "url": page.url,
        "has_more": page.has_more,
        "data": [to_json(each) for each in page.data],
    }


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
    return {
        "id": customer.id,
        "object": "customer",
        "address": None,
        "balance": customer.balances_cents.get(customer.currency or "usd", 0),
        "created": customer.created,
        "currency": customer.currency,
        "default_source": None,
        "delinquent": False,
        "description": customer.description,
        "discount": None,
        "email": customer.email,
        "invoice_prefix": f"{crc32(customer.id.encode()):08X}",
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None
            if customer.metadata.get("double_card") == "none"
            else f"pm_{customer.id}",
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": dict(customer.metadata),
        "name": customer.name,
        "next_invoice_sequence": customer.next_invoice_sequence,
        "phone": customer.phone,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": customer.test_clock,
    }


def _item(item: InvoiceItem) -> dict[str, Any]:
    line = item.line
    return {
        "id": item.id,
        "object": "invoiceitem",
        "amount": line.amount_cents,
        "currency": line.currency,
        "customer": item.customer,
        "date": item.created,
        "description": line.description,
        "discountable": line.amount_cents >= 0,
        "discounts": [],
        "invoice": item.invoice,
        "livemode": False,
        "metadata": dict(line.metadata),
        "net_amount": line.amount_cents,
        "parent": None,
        "period": {"end": line.period_end, "start": line.period_start},
        "pricing": pricing_json(line),
        "proration": False,
        "quantity": line.quantity,
        "quantity_decimal": str(line.quantity),
        "tax_rates": [],
        "test_clock": None,
    }


def _charge(charge: Charge) -> dict[str, Any]:
    paid = charge.failure_code is None
    return {
        "id": charge.id,
        "object": "charge",
        "amount": charge.amount_cents,
        "amount_captured": charge.amount_cents if paid else 0,
        "amount_refunded": charge.refunded_cents,
        "balance_transaction": None,
        "billing_details": {"address": None, "email": None, "name": None, "phone": None},
        "captured": paid,
        "created": charge.created,
        "currency": charge.currency,
        "customer": charge.customer,
        "description": "Payment for Invoice",
        "disputed": charge.disputed,
        "failure_code": charge.failure_code,
        "failure_message": None if paid else "Your card was declined.",
        "livemode": False,
        "metadata": {},
        "paid": paid,
        "payment_intent": charge.payment_intent,
        "payment_method": f"pm_{charge.customer}",
        "refunded": charge.refunded_cents == charge.amount_cents,
        "status": "succeeded" if paid else "failed",
    }


def _dispute(dispute: Dispute) -> dict[str, Any]:
    return {
        "id": dispute.id,
        "object": "dispute",
        "amount": dispute.amount_cents,
        "balance_transactions": [],
        "charge": dispute.charge,
        "created": dispute.created,
        "currency": dispute.currency,
        "enhanced_eligibility_types": [],
        "evidence": {},
        "evidence_details": {},
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "payment_intent": dispute.payment_intent,
        "reason": dispute.reason,
        "status": dispute.status,
    }


def _refund(refund: Refund) -> dict[str, Any]:
    return {
        "id": refund.id,
        "object": "refund",
        "amount": refund.amount_cents,
        "balance_transaction": None,
        "charge": refund.charge,
        "created": refund.created,
        "currency": refund.currency,
        "metadata": dict(refund.metadata),
        "payment_intent": refund.payment_intent,
        "reason": refund.reason,
        "status": "succeeded",
    }


def _credit_note(note: CreditNote) -> dict[str, Any]:
    return {
        "id": note.id,
        "object": "credit_note",
        "amount": note.amount_cents,
        "amount_shipping": 0,
        "created": note.created,
        "currency": note.currency,
        "customer": note.customer,
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": note.created,
        "invoice": note.invoice,
        "lines": {
            "object": "list",
            "data": [],
            "has_more": False,
            "url": f"/v1/credit_notes/{note.id}/lines",
        },
        "livemode": False,
        "memo": note.memo,
        "metadata": dict(note.metadata),
        "number": note.number,
        "out_of_band_amount": note.out_of_band_cents or None,
        "pdf": f"https://pay.stripe.com/credit_notes/{ACCOUNT_ID}/{note.id}/pdf",
        "post_payment_amount": note.amount_cents - note.pre_payment_cents,
        "pre_payment_amount": note.pre_payment_cents,
        "pretax_credit_amounts": [],
        "reason": note.reason,
        "refunds": [
            {
                "amount_refunded": note.amount_cents - note.credit_cents - note.out_of_band_cents,
                "payment_record_refund": None,
                "refund": each,
                "type": "refund",
            }
            for each in note.refunds
        ],
        "status": "issued",
        "subtotal": note.amount_cents,
        "subtotal_excluding_tax": note.amount_cents,
        "total": note.amount_cents,
        "total_excluding_tax": note.amount_cents,
        "total_taxes": [],
        "type": "pre_payment" if note.pre_payment_cents else "post_payment",
        "voided_at": None,
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
