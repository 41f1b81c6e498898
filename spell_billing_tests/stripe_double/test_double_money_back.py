"""Money that leaves again (refunds, disputes, returned debits), and what an edit in the dashboard does."""

from collections.abc import Callable
from typing import Any

import pytest

from spell_billing.stripe_double import ABSENT, DoubleError, StripeDouble

Ok = Callable[..., Any]


def kinds(double: StripeDouble) -> list[str]:
    return [event.type for event in double.events()]


def charge_of(ok: Ok, invoice: Any) -> Any:
    (charge,) = ok("GET", "/v1/charges", {"customer": invoice["customer"]})["data"]
    return charge


def test_a_refund_shows_on_the_charge_and_tells_it(ok: Ok, billed: Ok) -> None:
    charge = charge_of(ok, billed(1000))
    ok("POST", "/v1/refunds", {"charge": charge["id"], "amount": 400})

    again = ok("GET", "/v1/charges", {"customer": "cus_1"})["data"][0]
    events = ok("GET", "/v1/events", {"types": ["charge.refunded"]})["data"]

    assert (again["amount_refunded"], again["refunded"]) == (400, False)
    assert [each["data"]["object"]["amount_refunded"] for each in events] == [400]
    assert events[0]["data"]["previous_attributes"] == {"amount_refunded": 0}


def test_a_refund_can_fail_days_later_and_its_credit_note_stands(
    double: StripeDouble, ok: Ok, billed: Ok
) -> None:
    invoice = billed(1000)
    note = ok("POST", "/v1/credit_notes", {"invoice": invoice["id"], "amount": 400, "refund_amount": 400})
    double.fail_refund(invoice["id"])

    (charge,) = ok("GET", "/v1/charges", {"customer": "cus_1", "expand": ["data.refunds"]})["data"]
    events = ok("GET", "/v1/events", {"types": ["refund.failed", "charge.refund.updated"]})["data"]

    (refund,) = charge["refunds"]["data"]
    assert (charge["amount_refunded"], charge["refunded"]) == (0, False)
    assert (refund["status"], refund["failure_reason"]) == ("failed", "expired_or_canceled_card")
    assert {each["data"]["object"]["id"] for each in events} == {note["refunds"][0]["refund"]}
    assert [each["type"] for each in events] == ["charge.refund.updated", "refund.failed"]
    (still,) = ok("GET", "/v1/credit_notes", {"invoice": invoice["id"]})["data"]
    assert still["status"] == "issued"
    assert ok("GET", f"/v1/invoices/{invoice['id']}")["post_payment_credit_notes_amount"] == 400
    with pytest.raises(DoubleError):
        double.fail_refund(invoice["id"])


def test_a_dispute_is_listed_as_it_stands_now(double: StripeDouble, ok: Ok, billed: Ok) -> None:
    one, other = billed(1000), billed(700)
    for invoice in (one, other):
        double.dispute(invoice["id"], outcome="open")
    double.dispute(one["id"], outcome="won")

    disputes = ok("GET", "/v1/disputes")["data"]
    (of_charge,) = ok("GET", "/v1/disputes", {"charge": disputes[1]["charge"]})["data"]

    assert [(each["amount"], each["status"]) for each in disputes] == [(700, "needs_response"), (1000, "won")]
    assert of_charge == disputes[1]


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        ("open", ["created", "funds_withdrawn"]),
        ("lost", ["created", "funds_withdrawn", "closed"]),
        ("won", ["created", "funds_withdrawn", "funds_reinstated", "closed"]),
    ],
)
def test_a_dispute_takes_the_money_and_a_won_one_returns_it(
    double: StripeDouble, ok: Ok, billed: Ok, outcome: Any, told: list[str]
) -> None:
    invoice = billed(1000)
    double.dispute(invoice["id"], outcome=outcome)

    events = [each for each in ok("GET", "/v1/events", {"limit": 100})["data"] if "dispute" in each["type"]]

    assert [each["type"] for each in reversed(events)] == [f"charge.dispute.{each}" for each in told]
    assert events[0]["data"]["object"]["amount"] == 1000
    assert charge_of(ok, invoice)["disputed"] is True
    assert ok("GET", f"/v1/invoices/{invoice['id']}")["status"] == "paid", "the invoice itself stays paid"


def test_an_open_dispute_is_closed_by_a_second_call(double: StripeDouble, billed: Ok) -> None:
    invoice = billed(1000)
    double.dispute(invoice["id"], outcome="open")
    double.dispute(invoice["id"], outcome="won")

    assert kinds(double).count("charge.dispute.created") == 1
    assert kinds(double)[-1] == "charge.dispute.closed"


def test_what_no_charge_paid_cannot_be_disputed(double: StripeDouble, billed: Ok) -> None:
    with pytest.raises(DoubleError):
        double.dispute(billed(20)["id"])


def test_a_debit_that_comes_back_opens_the_invoice_again(double: StripeDouble, ok: Ok, billed: Ok) -> None:
    invoice = billed(1000)
    double.return_payment(invoice["id"])

    again = ok("GET", f"/v1/invoices/{invoice['id']}")

    assert (again["status"], again["amount_paid"], again["amount_remaining"]) == ("open", 0, 1000)
    assert kinds(double)[-2:] == ["invoice.payment_failed", "invoice.updated"]


def test_a_revision_replaces_an_open_invoice_when_it_is_finalized(ok: Ok, billed: Ok) -> None:
    original = billed(1000, auto_advance=False, metadata={"key": "value"})
    source = {"action": "revision", "invoice": original["id"]}
    draft = ok("POST", "/v1/invoices", {"from_invoice": source})
    assert (draft["status"], draft["total"], draft["metadata"]) == ("draft", 1000, {"key": "value"})
    assert draft["from_invoice"] == source
    assert ok("GET", f"/v1/invoices/{original['id']}")["status"] == "open"

    ok("POST", f"/v1/invoices/{draft['id']}/add_lines", {"lines": [{"amount": -300, "description": "Less"}]})
    revised = ok("POST", f"/v1/invoices/{draft['id']}/finalize", {"auto_advance": False})
    before = ok("GET", f"/v1/invoices/{original['id']}")

    assert (revised["status"], revised["total"]) == ("open", 700)
    assert (before["status"], before["latest_revision"]) == ("void", revised["id"])


def test_only_open_and_uncollectible_invoices_are_revised(refused: Ok, billed: Ok) -> None:
    paid = billed(1000)

    answer = refused("POST", "/v1/invoices", {"from_invoice": {"action": "revision", "invoice": paid["id"]}})

    assert answer[0] == 400


@pytest.mark.parametrize(
    ("currency", "amount", "largest"),
    [("usd", 99_999_999, True), ("usd", 100_000_000, False), ("idr", 150_000_000_00, True)],
)
def test_the_largest_amount_is_the_currencys(
    call: Ok, draft: Ok, currency: str, amount: int, *, largest: bool
) -> None:
    invoice = draft(currency=currency)
    lines = [{"amount": amount, "description": "Usage"}]

    status, _, body = call("POST", f"/v1/invoices/{invoice['id']}/add_lines", {"lines": lines})

    assert (status == 200) is largest
    assert largest or body["error"]["code"] == "amount_too_large"


@pytest.mark.parametrize(
    ("currency", "amount", "taken"),
    [
        ("kwd", 1234, False),
        ("kwd", 1230, True),
        ("isk", 12345, False),
        ("isk", 12300, True),
        ("ugx", 50, True),
    ],
)
def test_a_charge_has_the_last_digits_that_the_currency_allows(
    call: Ok, draft: Ok, currency: str, amount: int, *, taken: bool
) -> None:
    """UGX 50 is below the smallest charge: nothing is charged, so it may have any digits."""
    invoice = draft(amount if currency != "ugx" else 49, currency=currency)

    status, _, _ = call("POST", f"/v1/invoices/{invoice['id']}/finalize")

    assert (status == 200) is taken


def test_what_is_on_a_test_clock_is_listed_by_its_customer_alone(
    double: StripeDouble, ok: Ok, draft: Ok
) -> None:
    double.add_customer("cus_clock", test_clock="clock_1")
    clocked = draft(1000, customer="cus_clock")
    usual = draft(1000)

    everything = [each["id"] for each in ok("GET", "/v1/invoices")["data"]]
    own = [each["id"] for each in ok("GET", "/v1/invoices", {"customer": "cus_clock"})["data"]]

    assert everything == [usual["id"]]
    assert own == [clocked["id"]]
    assert clocked["test_clock"] == "clock_1"


def test_an_invoice_can_be_shown_as_odd_ones_are(double: StripeDouble, ok: Ok, billed: Ok) -> None:
    invoice = billed(1000)
    double.show(invoice["id"], metadata=None, next_payment_attempt=ABSENT)

    shown = ok("GET", f"/v1/invoices/{invoice['id']}")

    assert shown["metadata"] is None
    assert "next_payment_attempt" not in shown
