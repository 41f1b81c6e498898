"""Automatic tax: https://docs.stripe.com/tax/invoicing."""

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from spell_billing.stripe_double.errors import ApiError
from spell_billing.stripe_double.objects import Customer, Invoice, Line

TAX = "double_tax"
"""Customer metadata: the per cent added to an invoice, or `unplaced` where the location is unknown."""

UNPLACED = "unplaced"


def tax_on(customer: Customer, taxable_cents: int) -> tuple[str, int]:
    """Return the status of the calculation, and the tax that comes on top of an amount."""
    rate = customer.metadata.get(TAX, "0")
    if rate == UNPLACED:
        return "requires_location_inputs", 0
    return "complete", int((Decimal(rate) * taxable_cents / 100).quantize(Decimal(1), ROUND_HALF_UP))


def require_location(draft: Invoice) -> None:
    """Refuse to finalize what tax cannot be computed for.

    Raises:
        ApiError: `customer_tax_location_invalid`: https://docs.stripe.com/error-codes.
    """
    if draft.tax_status == "requires_location_inputs":
        raise ApiError(
            400,
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
        raise ApiError(400, "Automatic tax is not supported for negative amounts.", param="lines")


def tax_json(invoice: Invoice) -> dict[str, Any]:
    """Return the fields of an invoice that speak of tax."""
    computed = invoice.tax_status == "complete"
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
        "total_taxes": [tax] if computed else [],
    }
