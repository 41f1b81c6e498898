"""Automatic tax on invoices: https://docs.stripe.com/tax/invoicing."""

from collections.abc import Callable
from typing import Any

from spell_billing.stripe_double import StripeDouble

Call = Callable[..., Any]
TAXED = {"automatic_tax": {"enabled": True}}


def with_tax(double: StripeDouble, rate: str) -> str:
    double.add_customer("cus_2", metadata={"double_tax": rate})
    return "cus_2"


def test_tax_comes_on_top_of_the_lines_and_stands_beside_them(
    double: StripeDouble, draft: Call, billed: Call
) -> None:
    customer = with_tax(double, "19")
    invoice = draft(1000, 50, customer=customer, **TAXED)

    assert invoice["automatic_tax"]["enabled"] is True
    assert invoice["automatic_tax"]["status"] == "complete"
    assert (invoice["subtotal"], invoice["total_excluding_tax"], invoice["total"]) == (1050, 1050, 1250)
    (tax,) = invoice["total_taxes"]
    assert (tax["amount"], tax["tax_behavior"], tax["taxable_amount"]) == (200, "exclusive", 1050)
    paid = billed(1000, 50, customer=customer, **TAXED)
    assert (paid["status"], paid["amount_paid"]) == ("paid", 1250)
    assert draft(1000, customer=customer)["total_taxes"] == []


def test_a_customer_who_cannot_be_placed_is_refused_at_finalization_until_tax_is_left_out(
    double: StripeDouble, ok: Call, refused: Call, draft: Call
) -> None:
    # https://docs.stripe.com/error-codes#customer-tax-location-invalid
    invoice = draft(1000, customer=with_tax(double, "unplaced"), **TAXED)
    path = f"/v1/invoices/{invoice['id']}"

    assert invoice["automatic_tax"]["status"] == "requires_location_inputs"
    assert refused("POST", f"{path}/finalize") == (400, "customer_tax_location_invalid", None)
    untaxed = ok("POST", path, {"automatic_tax": {"enabled": False}})
    assert (untaxed["automatic_tax"]["enabled"], untaxed["automatic_tax"]["status"]) == (False, None)
    assert ok("POST", f"{path}/finalize")["total"] == 1000


def test_a_negative_line_and_automatic_tax_do_not_mix(refused: Call, ok: Call, draft: Call) -> None:
    """`automatic_tax.enabled` of an invoice: items with negative amounts cannot be added to such invoices."""
    taxed, credited = draft(1000, **TAXED), draft(1000, -100)

    lines = {"lines": [{"amount": -100, "description": "credit"}]}
    assert refused("POST", f"/v1/invoices/{taxed['id']}/add_lines", lines)[0] == 400
    assert refused("POST", f"/v1/invoices/{credited['id']}", TAXED)[0] == 400
    assert ok("POST", f"/v1/invoices/{credited['id']}/finalize")["total"] == 900
