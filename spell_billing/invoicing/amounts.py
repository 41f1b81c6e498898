"""What an invoice at Stripe charges for its lines, and what Stripe put beside that: tax, a discount."""

from typing import Any

from spell_billing.core.terms import CHARGE, OFF, ON, SEND, Terms
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
