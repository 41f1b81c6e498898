"""What an invoice may do in which status."""

from collections.abc import Callable
from typing import Any

from spell_billing.stripe_double import StripeDouble

Call = Callable[..., Any]


def test_a_draft_takes_lines_and_shows_the_first_ten(ok: Call, draft: Call) -> None:
    invoice = draft(*range(100, 112))
    assert [each["amount"] for each in invoice["lines"]["data"]] == list(range(100, 110))
    assert invoice["lines"]["has_more"] is True
    assert invoice["lines"]["url"] == f"/v1/invoices/{invoice['id']}/lines"
    assert invoice["total"] == invoice["subtotal"] == sum(range(100, 112))
    first = ok("GET", invoice["lines"]["url"], {"limit": 8})
    assert [each["amount"] for each in first["data"]] == list(range(100, 108))
    assert first["has_more"] is True
    rest = ok("GET", invoice["lines"]["url"], {"starting_after": first["data"][-1]["id"]})
    assert [each["amount"] for each in rest["data"]] == list(range(108, 112))
    assert rest["has_more"] is False


def test_lines_may_be_negative(draft: Call) -> None:
    invoice = draft(120, -22)
    assert [each["amount"] for each in invoice["lines"]["data"]] == [120, -22]
    assert invoice["total"] == 98


def test_an_invoice_has_one_currency(refused: Call, draft: Call) -> None:
    invoice = draft(currency="eur")
    item = {"invoice": invoice["id"], "amount": 30, "currency": "usd"}
    assert refused("POST", "/v1/invoiceitems", item)[::2] == (400, "currency")
    assert draft(currency="EUR")["currency"] == "eur"
    assert draft()["currency"] == "usd"


def test_a_customer_keeps_the_currency_of_the_first_finalized_invoice(draft: Call, billed: Call) -> None:
    billed(900, currency="eur")
    assert draft()["currency"] == "eur"


def test_a_refused_line_leaves_the_invoice_without_any(ok: Call, refused: Call, draft: Call) -> None:
    invoice = draft()
    lines = [{"amount": 5}, {"description": "no amount"}]
    assert refused("POST", f"/v1/invoices/{invoice['id']}/add_lines", {"lines": lines}) == (
        400,
        "parameter_missing",
        "lines[1][amount]",
    )
    assert ok("GET", f"/v1/invoices/{invoice['id']}")["lines"]["data"] == []


def test_finalize_succeeds_once(ok: Call, refused: Call, draft: Call) -> None:
    invoice = draft(1000)
    finalized = ok("POST", f"/v1/invoices/{invoice['id']}/finalize", {"auto_advance": False})
    assert finalized["status"] == "open"
    assert finalized["amount_remaining"] == 1000
    assert refused("POST", f"/v1/invoices/{invoice['id']}/finalize")[:2] == (400, "invoice_not_editable")


def test_only_drafts_take_lines_or_are_deleted(ok: Call, refused: Call, billed: Call) -> None:
    path = f"/v1/invoices/{billed(1000, auto_advance=False)['id']}"
    assert refused("POST", f"{path}/add_lines", {"lines": [{"amount": 1}]})[1] == "invoice_not_editable"
    assert refused("DELETE", path)[1] == "invoice_not_editable"
    assert ok("GET", path)["total"] == 1000


def test_a_deleted_draft_is_gone(ok: Call, refused: Call, draft: Call) -> None:
    invoice = draft(5)
    answer = ok("DELETE", f"/v1/invoices/{invoice['id']}")
    assert answer == {"id": invoice["id"], "object": "invoice", "deleted": True}
    assert refused("GET", f"/v1/invoices/{invoice['id']}") == (404, "resource_missing", "id")
    assert refused("POST", f"/v1/invoices/{invoice['id']}/finalize")[:2] == (404, "resource_missing")
    assert ok("GET", "/v1/invoices")["data"] == []


def test_only_open_and_uncollectible_invoices_are_voided(
    ok: Call, refused: Call, draft: Call, billed: Call
) -> None:
    assert refused("POST", f"/v1/invoices/{draft(700)['id']}/void")[1] == "invoice_not_editable"
    assert refused("POST", f"/v1/invoices/{billed(700)['id']}/void")[1] == "invoice_not_editable"
    opened = billed(700, auto_advance=False)
    voided = ok("POST", f"/v1/invoices/{opened['id']}/void")
    assert voided["status"] == "void"
    assert voided["status_transitions"]["voided_at"]
    written_off = billed(700, auto_advance=False)
    assert ok("POST", f"/v1/invoices/{written_off['id']}/mark_uncollectible")["status"] == "uncollectible"
    assert refused("POST", f"/v1/invoices/{written_off['id']}/mark_uncollectible")[0] == 400
    assert ok("POST", f"/v1/invoices/{written_off['id']}/void")["status"] == "void"


def test_pay_charges_open_and_uncollectible_invoices(
    ok: Call, refused: Call, billed: Call, draft: Call
) -> None:
    opened = billed(700, auto_advance=False)
    assert ok("POST", f"/v1/invoices/{opened['id']}/pay")["amount_paid"] == 700
    assert refused("POST", f"/v1/invoices/{opened['id']}/pay")[0] == 400
    assert refused("POST", f"/v1/invoices/{draft(700)['id']}/pay")[0] == 400
    outside = billed(700, auto_advance=False)
    paid = ok("POST", f"/v1/invoices/{outside['id']}/pay", {"paid_out_of_band": True})
    assert (paid["status"], paid["amount_paid_off_stripe"]) == ("paid", 700)


def test_update_changes_drafts_freely_and_finalized_invoices_in_metadata_only(
    ok: Call, refused: Call, draft: Call, billed: Call
) -> None:
    path = f"/v1/invoices/{draft(metadata={'a': '1', 'b': '2'})['id']}"
    changed = ok("POST", path, {"description": "new", "metadata": {"a": "", "c": "3"}})
    assert (changed["description"], changed["metadata"]) == ("new", {"b": "2", "c": "3"})
    assert ok("POST", path, {"metadata": ""})["metadata"] == {}
    path = f"/v1/invoices/{billed(900)['id']}"
    assert ok("POST", path, {"metadata": {"paid": "yes"}})["metadata"] == {"paid": "yes"}
    assert refused("POST", path, {"description": "late"})[1] == "invoice_not_editable"


def test_foreign_pending_items_stay_pending_unless_included(ok: Call, billed: Call, draft: Call) -> None:
    item = ok("POST", "/v1/invoiceitems", {"customer": "cus_1", "amount": 55, "description": "foreign"})
    billed(700, pending_invoice_items_behavior="exclude")
    assert [each["id"] for each in ok("GET", "/v1/invoiceitems", {"pending": True})["data"]] == [item["id"]]
    included = draft(pending_invoice_items_behavior="include")
    assert [each["description"] for each in included["lines"]["data"]] == ["foreign"]
    assert ok("GET", "/v1/invoiceitems", {"pending": True})["data"] == []
    ok("DELETE", f"/v1/invoices/{included['id']}")
    assert [each["id"] for each in ok("GET", "/v1/invoiceitems", {"pending": True})["data"]] == [item["id"]]


def test_an_item_can_go_straight_onto_a_draft(ok: Call, refused: Call, draft: Call) -> None:
    invoice = draft(100)
    item = ok("POST", "/v1/invoiceitems", {"customer": "cus_1", "amount": 55, "invoice": invoice["id"]})
    assert item["invoice"] == invoice["id"]
    assert ok("GET", f"/v1/invoices/{invoice['id']}")["total"] == 155
    assert refused("POST", "/v1/invoiceitems", {"amount": 5})[1:] == ("parameter_missing", "customer")


def test_unknown_customers_are_refused(refused: Call) -> None:
    assert refused("POST", "/v1/invoices", {"customer": "cus_none"}) == (400, "resource_missing", "customer")
    assert refused("GET", "/v1/customers/cus_none") == (404, "resource_missing", "id")


def test_unknown_customers_can_be_made_on_first_use(call_at: Call) -> None:
    with StripeDouble(auto_create_customers=True).running() as double:
        assert call_at(double, "POST", "/v1/invoices", {"customer": "cus_new"})[0] == 200
        assert call_at(double, "GET", "/v1/customers/cus_new")[0] == 200
        assert call_at(double, "GET", "/v1/customers/other")[0] == 404
