"""Invoices that are sent to be paid by transfer: https://docs.stripe.com/api/invoices/create."""

from collections.abc import Callable
from typing import Any

import pytest

from spell_billing.stripe_double import StripeDouble

Call = Callable[..., Any]
DAY_SECONDS = 24 * 3600
SENT = {"customer": "cus_1", "collection_method": "send_invoice"}


def test_an_invoice_that_is_sent_is_due_after_its_days_and_shows_its_fields(ok: Call) -> None:
    fields = [{"name": "PO number", "value": "PO 7"}]
    terms = {"days_until_due": 14, "custom_fields": fields, "footer": "Thank you"}
    invoice = ok("POST", "/v1/invoices", {**SENT, **terms})

    assert invoice["collection_method"] == "send_invoice"
    assert invoice["due_date"] == invoice["created"] + 14 * DAY_SECONDS
    assert (invoice["custom_fields"], invoice["footer"]) == (fields, "Thank you")
    path = f"/v1/invoices/{invoice['id']}"
    assert ok("POST", path, {"description": "text"})["custom_fields"] == fields
    assert ok("POST", path, {"custom_fields": ""})["custom_fields"] is None


def test_an_invoice_that_is_sent_is_not_collected(double: StripeDouble, ok: Call, billed: Call) -> None:
    double.add_customer("cus_2", card="none")
    invoice = billed(900, customer="cus_2", collection_method="send_invoice", days_until_due=30)
    double.advance()

    invoice = ok("GET", f"/v1/invoices/{invoice['id']}")
    assert (invoice["status"], invoice["attempted"], invoice["attempt_count"]) == ("open", False, 0)
    assert "invoice.payment_failed" not in {each.type for each in double.events()}


@pytest.mark.parametrize(
    "params",
    [
        SENT,
        {**SENT, "days_until_due": -1},
        {"customer": "cus_1", "collection_method": "charge_automatically", "days_until_due": 30},
    ],
)
def test_days_until_due_belong_to_an_invoice_that_is_sent(refused: Call, params: dict[str, Any]) -> None:
    # Of `days_until_due`: "Valid only for invoices where collection_method=send_invoice."
    assert refused("POST", "/v1/invoices", params)[0] == 400
