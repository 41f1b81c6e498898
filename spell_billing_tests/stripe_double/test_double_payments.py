"""Why a payment failed, and how attempts count, as Stripe shows it since invoices name no charge."""

from collections.abc import Callable
from typing import Any

import pytest
import stripe

from spell_billing.stripe_double import StripeDouble

Call = Callable[..., Any]
INTENT = "payments.data.payment.payment_intent"


def test_an_invoice_shows_its_payments_only_where_they_are_expanded(ok: Call, billed: Call) -> None:
    invoice = billed(1000, auto_advance=False)
    path = f"/v1/invoices/{invoice['id']}"
    assert not {"charge", "payment_intent", "payments"} & invoice.keys()
    (payment,) = ok("GET", path, {"expand": ["payments"]})["payments"]["data"]
    assert (payment["is_default"], payment["status"], payment["amount_requested"]) == (True, "open", 1000)
    assert payment["payment"]["payment_intent"].startswith("pi_")
    intent = ok("GET", path, {"expand": [INTENT]})["payments"]["data"][0]["payment"]["payment_intent"]
    assert intent["id"] == payment["payment"]["payment_intent"]
    assert (intent["status"], intent["last_payment_error"]) == ("requires_payment_method", None)


@pytest.mark.parametrize(
    ("card", "code"), [("declined", "generic_decline"), ("insufficient_funds", "insufficient_funds")]
)
def test_the_payment_intent_tells_why_the_last_attempt_failed(
    double: StripeDouble, billed: Call, sdk: stripe.StripeClient, card: str, code: str
) -> None:
    double.add_customer("cus_2", card=card)
    invoice = sdk.v1.invoices.retrieve(billed(1000, customer="cus_2")["id"], {"expand": [INTENT]})
    assert invoice.payments is not None
    intent = invoice.payments.data[0].payment.payment_intent
    assert isinstance(intent, stripe.PaymentIntent)
    assert intent.last_payment_error is not None
    assert (intent.status, intent.last_payment_error.decline_code) == ("requires_payment_method", code)


def test_a_paid_invoice_has_one_payment_intent_over_all_attempts(
    double: StripeDouble, ok: Call, billed: Call
) -> None:
    double.add_customer("cus_2", card="declined")
    path = f"/v1/invoices/{billed(1000, customer='cus_2')['id']}"
    double.add_customer("cus_2", card="ok")
    ok("POST", f"{path}/pay")
    assert len({charge["payment_intent"] for charge in ok("GET", "/v1/charges")["data"]}) == 1
    (payment,) = ok("GET", path, {"expand": [INTENT]})["payments"]["data"]
    assert (payment["status"], payment["payment"]["payment_intent"]["status"]) == ("paid", "succeeded")
    assert payment["payment"]["payment_intent"]["last_payment_error"] is None


def test_what_is_below_the_minimum_charge_has_no_payment(ok: Call, billed: Call) -> None:
    invoice = billed(30)
    assert ok("GET", f"/v1/invoices/{invoice['id']}", {"expand": [INTENT]})["payments"]["data"] == []


def test_an_attempt_by_hand_counts_only_as_the_first(
    double: StripeDouble, ok: Call, refused: Call, billed: Call
) -> None:
    double.add_customer("cus_2", card="declined")
    by_hand = f"/v1/invoices/{billed(1000, customer='cus_2', auto_advance=False)['id']}"
    automatic = f"/v1/invoices/{billed(1000, customer='cus_2')['id']}"
    planned = ok("GET", automatic)["next_payment_attempt"]
    for path in (by_hand, by_hand, automatic):
        assert refused("POST", f"{path}/pay")[:2] == (402, "card_declined")
    assert [ok("GET", path)["attempt_count"] for path in (by_hand, automatic)] == [1, 1]
    assert ok("GET", automatic)["next_payment_attempt"] == planned
    double.shift_clock(4 * 24 * 3600)
    double.advance()
    assert ok("GET", automatic)["attempt_count"] == 2
