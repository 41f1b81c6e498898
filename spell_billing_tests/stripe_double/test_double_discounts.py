"""A customer's coupon on invoices: https://docs.stripe.com/api/invoices/create of `discounts`."""

from collections.abc import Callable
from typing import Any

from spell_billing.stripe_double import StripeDouble

Call = Callable[..., Any]


def with_coupon(double: StripeDouble, percent: str, **metadata: str) -> str:
    double.add_customer("cus_2", metadata={"double_coupon": percent, **metadata})
    return "cus_2"


def test_a_coupon_is_inherited_unless_the_request_says_otherwise(double: StripeDouble, draft: Call) -> None:
    """Pass an empty string to avoid inheriting any discounts."""
    customer = with_coupon(double, "20")
    inherited, kept_out = draft(1000, customer=customer), draft(1000, customer=customer, discounts="")

    (discount,) = inherited["discounts"]
    assert inherited["total_discount_amounts"] == [{"amount": 200, "discount": discount}]
    assert inherited["lines"]["data"][0]["discount_amounts"] == [{"amount": 200, "discount": discount}]
    assert (inherited["subtotal"], inherited["total"]) == (1000, 800)
    assert (kept_out["discounts"], kept_out["total"]) == ([], 1000)


def test_lines_that_are_not_discountable_keep_their_price(
    double: StripeDouble, ok: Call, draft: Call
) -> None:
    """Defaults to false for negative line items, and true for all other line items."""
    invoice = draft(customer=with_coupon(double, "20"))
    lines = [
        {"amount": 1000, "description": "usage"},
        {"amount": 500, "description": "usage", "discountable": False},
        {"amount": -100, "description": "credit"},
    ]
    filled = ok("POST", f"/v1/invoices/{invoice['id']}/add_lines", {"lines": lines})

    assert [each["discountable"] for each in filled["lines"]["data"]] == [True, False, False]
    assert (filled["subtotal"], filled["total"]) == (1400, 1200)


def test_tax_is_computed_on_what_the_discount_leaves(double: StripeDouble, draft: Call) -> None:
    customer = with_coupon(double, "20", double_tax="10")
    invoice = draft(1000, customer=customer, automatic_tax={"enabled": True})

    assert (invoice["subtotal"], invoice["total_excluding_tax"], invoice["total"]) == (1000, 800, 880)
