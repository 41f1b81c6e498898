"""A customer's coupon on an invoice: https://docs.stripe.com/billing/subscriptions/coupons."""

from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from spell_billing.stripe_double.account import Account
from spell_billing.stripe_double.errors import unsupported
from spell_billing.stripe_double.objects import Invoice, Line

COUPON = "double_coupon"
"""Customer metadata: the per cent that the customer's coupon takes off."""


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


def taken_off_cents(invoice: Invoice) -> int:
    """Sum what the invoice's discount takes off its lines."""
    return sum(taken_off_line_cents(line, invoice.discount_percent) for line in invoice.lines)


def taken_off_line_cents(line: Line, percent: str) -> int:
    """Return what a coupon takes off a line: nothing where it may not be discounted."""
    if not line.discountable:
        return 0
    return int((Decimal(percent) * line.amount_cents / 100).quantize(Decimal(1), ROUND_HALF_UP))


def discount_json(invoice: Invoice) -> dict[str, Any]:
    """Return the fields of an invoice that speak of its discount."""
    if invoice.discount is None:
        return {"discounts": [], "total_discount_amounts": []}
    amounts = [{"amount": invoice.discount_cents, "discount": invoice.discount}]
    return {"discounts": [invoice.discount], "total_discount_amounts": amounts}
