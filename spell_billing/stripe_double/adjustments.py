"""What Stripe takes off an invoice by a customer's coupon, and puts on top as automatic tax.

See https://docs.stripe.com/billing/subscriptions/coupons and https://docs.stripe.com/tax/invoicing.
"""

from collections.abc import Iterable
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from spell_billing.stripe_double.account import Account
from spell_billing.stripe_double.errors import ApiError, unsupported
from spell_billing.stripe_double.objects import Customer, Invoice, Line

COUPON = "double_coupon"
"""Customer metadata: the per cent that the customer's coupon takes off."""

TAX = "double_tax"
"""Customer metadata: the per cent added to an invoice, or `unplaced` where the location is unknown."""

UNPLACED = "unplaced"
_NO_LOCATION = "requires_location_inputs"


def with_discount(account: Account, draft: Invoice, params: dict[str, Any]) -> Invoice:
    """Return a new draft with its customer's coupon, unless the request says that there is none.

    "If not specified, inherits the discount from the invoice's customer. Pass an empty string to avoid
    inheriting any discounts": https://docs.stripe.com/api/invoices/create of `discounts`.

    Raises:
        ApiError: for discounts of the request's own.
    """
    if params.get("discounts"):
        raise unsupported("discounts")
    percent = account.customers.get(draft.customer).metadata.get(COUPON)
    if percent is None or "discounts" in params:
        return draft
    return replace(draft, discount=account.new_id("di"), discount_percent=percent)


def taken_off_line_cents(line: Line, percent: str) -> int:
    """Return what a coupon takes off a line: nothing where it may not be discounted."""
    return _share_cents(percent, line.amount_cents) if line.discountable else 0


def discount_json(invoice: Invoice) -> dict[str, Any]:
    """Return the fields of an invoice that speak of its discount."""
    if invoice.discount is None:
        return {"discounts": [], "total_discount_amounts": []}
    amounts = [{"amount": invoice.discount_cents, "discount": invoice.discount}]
    return {"discounts": [invoice.discount], "total_discount_amounts": amounts}


def tax_on(customer: Customer, taxable_cents: int) -> tuple[str, int]:
    """Return the status of the calculation, and the tax that comes on top of an amount."""
    rate = customer.metadata.get(TAX, "0")
    return (_NO_LOCATION, 0) if rate == UNPLACED else ("complete", _share_cents(rate, taxable_cents))


def require_location(draft: Invoice) -> None:
    """Refuse to finalize what tax cannot be computed for.

    Raises:
        ApiError: `customer_tax_location_invalid`: https://docs.stripe.com/error-codes.
    """
    if draft.tax_status == _NO_LOCATION:
        raise ApiError(
            "We could not determine the customer's tax location based on the provided customer address.",
            code="customer_tax_location_invalid",
        )


def refuse_negative(lines: Iterable[Line]) -> None:
    """Refuse lines that go with no automatic tax.

    Raises:
        ApiError: for a negative amount: "incompatible invoice items (invoice items with manually specified
            tax rates, negative amounts, or tax_behavior=unspecified) cannot be added to automatic tax
            invoices", says https://docs.stripe.com/api/invoices/object of `automatic_tax.enabled`.
    """
    if any(line.amount_cents < 0 for line in lines):
        raise ApiError("Automatic tax is not supported for negative amounts.", param="lines")


def tax_json(invoice: Invoice) -> dict[str, Any]:
    """Return the fields of an invoice that speak of tax."""
    taxable_cents = invoice.total_cents - invoice.tax_cents
    tax = {
        "amount": invoice.tax_cents,
        "tax_behavior": "exclusive",
        "tax_rate_details": None,
        "taxability_reason": "standard_rated" if invoice.tax_cents else "not_collecting",
        "taxable_amount": taxable_cents,
        "type": "tax_rate_details",
    }
    return {
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": invoice.automatic_tax,
            "liability": {"type": "self"} if invoice.automatic_tax else None,
            "provider": "stripe" if invoice.automatic_tax else None,
            "status": invoice.tax_status,
        },
        "total_excluding_tax": taxable_cents,
        "total_taxes": [tax] if invoice.tax_status == "complete" else [],
    }


def _share_cents(percent: str, amount_cents: int) -> int:
    return int((Decimal(percent) * amount_cents / 100).quantize(Decimal(1), ROUND_HALF_UP))
