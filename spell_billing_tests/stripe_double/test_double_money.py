"""What is due, what the card does, and where small, negative and returned amounts go."""

from collections.abc import Callable
from typing import Any

import pytest

from spell_billing.stripe_double import StripeDouble

Call = Callable[..., Any]


def balance_cents(ok: Call, customer: str = "cus_1") -> int:
    cents: int = ok("GET", f"/v1/customers/{customer}")["balance"]
    return cents


def kinds(double: StripeDouble) -> list[str]:
    return [each.type for each in double.events()]


def test_a_total_of_zero_is_paid_at_once(double: StripeDouble, ok: Call, draft: Call) -> None:
    invoice = draft(300, -300)
    finalized = ok("POST", f"/v1/invoices/{invoice['id']}/finalize")
    assert (finalized["status"], finalized["amount_due"], finalized["attempt_count"]) == ("paid", 0, 0)
    assert kinds(double)[-3:] == ["invoice.finalized", "invoice.paid", "invoice.payment_succeeded"]


def test_a_total_below_the_minimum_charge_moves_to_the_balance(ok: Call, billed: Call) -> None:
    small = billed(49)
    assert (small["status"], small["total"], small["amount_due"]) == ("paid", 49, 0)
    assert (small["starting_balance"], small["ending_balance"]) == (0, 49)
    assert balance_cents(ok) == 49
    next_invoice = billed(50)
    assert (next_invoice["starting_balance"], next_invoice["amount_due"]) == (49, 99)
    assert (next_invoice["ending_balance"], next_invoice["amount_paid"]) == (0, 99)
    assert balance_cents(ok) == 0


@pytest.mark.parametrize(("currency", "cents", "status"), [("gbp", 30, "open"), ("jpy", 49, "paid")])
def test_the_minimum_charge_depends_on_the_currency(
    billed: Call, currency: str, cents: int, status: str
) -> None:
    assert billed(cents, currency=currency, auto_advance=False)["status"] == status


def test_a_negative_total_becomes_a_credit_that_later_invoices_use(ok: Call, billed: Call) -> None:
    credit = billed(-500)
    assert (credit["status"], credit["total"], credit["amount_due"]) == ("paid", -500, 0)
    assert balance_cents(ok) == -500
    assert billed(300)["amount_due"] == 0
    assert balance_cents(ok) == -200
    partly = billed(1200)
    assert (partly["amount_due"], partly["amount_paid"], partly["total"]) == (1000, 1000, 1200)
    assert balance_cents(ok) == 0


def test_voiding_gives_the_balance_back(ok: Call, billed: Call) -> None:
    billed(-500)
    invoice = billed(1200, auto_advance=False)
    assert balance_cents(ok) == 0
    ok("POST", f"/v1/invoices/{invoice['id']}/void")
    assert balance_cents(ok) == -500


def test_a_draft_shows_what_would_be_due(double: StripeDouble, draft: Call) -> None:
    double.add_customer("cus_2", balance_cents=-400)
    invoice = draft(1000, customer="cus_2")
    assert (invoice["total"], invoice["starting_balance"], invoice["amount_due"]) == (1000, -400, 600)


def test_a_total_above_the_maximum_cannot_be_finalized(ok: Call, refused: Call, draft: Call) -> None:
    invoice = draft(99_999_999, 1)
    assert refused("POST", f"/v1/invoices/{invoice['id']}/finalize")[:2] == (400, "amount_too_large")
    assert ok("GET", f"/v1/invoices/{invoice['id']}")["status"] == "draft"


def test_automatic_collection_follows_the_answer_of_finalize(
    double: StripeDouble, ok: Call, draft: Call
) -> None:
    invoice = draft(1000)
    assert ok("POST", f"/v1/invoices/{invoice['id']}/finalize", {"auto_advance": True})["status"] == "open"
    assert ok("GET", f"/v1/invoices/{invoice['id']}")["status"] == "paid"
    assert kinds(double) == [
        "invoice.created",
        "invoice.updated",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
    ]


def test_without_auto_advance_nothing_is_collected(ok: Call, billed: Call) -> None:
    invoice = billed(1000, auto_advance=False)
    assert (invoice["status"], invoice["attempted"]) == ("open", False)
    assert ok("GET", "/v1/charges")["data"] == []


@pytest.mark.parametrize("card", ["declined", "insufficient_funds", "none"])
def test_a_failing_card_leaves_the_invoice_open(
    double: StripeDouble, ok: Call, billed: Call, card: str
) -> None:
    double.add_customer("cus_2", card=card)
    invoice = billed(1000, customer="cus_2")
    assert (invoice["status"], invoice["attempted"], invoice["attempt_count"]) == ("open", True, 1)
    assert invoice["next_payment_attempt"] > double.state.unix()
    assert kinds(double)[-1] == "invoice.payment_failed"
    charges = ok("GET", "/v1/charges", {"customer": "cus_2"})["data"]
    assert [each["status"] for each in charges] == ([] if card == "none" else ["failed"])


def test_a_declined_payment_is_retried_when_its_time_has_come(
    double: StripeDouble, ok: Call, billed: Call
) -> None:
    double.add_customer("cus_2", card="declined")
    path = f"/v1/invoices/{billed(1000, customer='cus_2')['id']}"
    double.advance()
    assert ok("GET", path)["attempt_count"] == 1
    double.add_customer("cus_2", card="ok")
    double.shift_clock(4 * 24 * 3600)
    double.advance()
    assert ok("GET", path)["status"] == "paid"


def test_collection_can_wait_until_it_is_asked_for(call_at: Call) -> None:
    with StripeDouble(collection="manual").running() as double:
        double.add_customer("cus_1")
        invoice = call_at(double, "POST", "/v1/invoices", {"customer": "cus_1"})[2]
        path = f"/v1/invoices/{invoice['id']}"
        call_at(double, "POST", f"{path}/add_lines", {"lines": [{"amount": 800}]})
        call_at(double, "POST", f"{path}/finalize", {"auto_advance": True})
        assert call_at(double, "GET", path)[2]["status"] == "open"
        double.advance()
        assert call_at(double, "GET", path)[2]["status"] == "paid"


def test_a_draft_with_auto_advance_finalizes_itself_after_an_hour(
    double: StripeDouble, ok: Call, draft: Call
) -> None:
    automatic = draft(800, auto_advance=True)
    manual = draft(800)
    double.advance()
    assert ok("GET", f"/v1/invoices/{automatic['id']}")["status"] == "draft"
    double.shift_clock(3600)
    double.advance()
    assert ok("GET", f"/v1/invoices/{automatic['id']}")["status"] == "paid"
    assert ok("GET", f"/v1/invoices/{manual['id']}")["status"] == "draft"


def test_a_credit_note_reduces_an_open_invoice(ok: Call, refused: Call, billed: Call) -> None:
    invoice = billed(1000, auto_advance=False)
    note = ok("POST", "/v1/credit_notes", {"invoice": invoice["id"], "amount": 400, "memo": "goodwill"})
    assert (note["pre_payment_amount"], note["type"], note["customer"]) == (400, "pre_payment", "cus_1")
    assert ok("GET", f"/v1/invoices/{invoice['id']}")["amount_remaining"] == 600
    assert refused("POST", "/v1/credit_notes", {"invoice": invoice["id"], "amount": 601})[2] == "amount"
    ok("POST", "/v1/credit_notes", {"invoice": invoice["id"], "amount": 600})
    assert ok("GET", f"/v1/invoices/{invoice['id']}")["status"] == "paid"
    assert len(ok("GET", "/v1/credit_notes", {"customer": "cus_1"})["data"]) == 2


def test_a_credit_note_on_a_paid_invoice_says_where_the_money_goes(
    ok: Call, refused: Call, billed: Call
) -> None:
    invoice = billed(1000)
    assert refused("POST", "/v1/credit_notes", {"invoice": invoice["id"], "amount": 500})[0] == 400
    shares = {"credit_amount": 300, "refund_amount": 150, "out_of_band_amount": 50}
    note = ok("POST", "/v1/credit_notes", {"invoice": invoice["id"], "amount": 500, **shares})
    assert (note["post_payment_amount"], len(note["refunds"])) == (500, 1)
    assert balance_cents(ok) == -300
    assert ok("GET", "/v1/charges")["data"][0]["amount_refunded"] == 150


def test_a_charge_is_refunded_at_most_in_full(ok: Call, refused: Call, billed: Call) -> None:
    billed(1000)
    charge = ok("GET", "/v1/charges")["data"][0]
    assert (
        ok("POST", "/v1/refunds", {"payment_intent": charge["payment_intent"], "amount": 300})["amount"]
        == 300
    )
    assert refused("POST", "/v1/refunds", {"charge": charge["id"], "amount": 701})[2] == "amount"
    assert ok("POST", "/v1/refunds", {"charge": charge["id"]})["amount"] == 700
    assert refused("POST", "/v1/refunds", {"charge": charge["id"]})[1] == "charge_already_refunded"
