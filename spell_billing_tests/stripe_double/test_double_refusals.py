"""Every request is checked against Stripe's published parameters, and by what Stripe enforces beside them."""

import http.client
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from spell_billing.stripe_double import StripeDouble

Call = Callable[..., Any]

TOO_MANY_KEYS = {f"key{n}": "x" for n in range(51)}


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"customer": "cus_1", "colour": "red"}, "parameter_unknown", "colour"),
        ({}, "parameter_missing", "customer"),
        ({"customer": ""}, "parameter_invalid_empty", "customer"),
        ({"customer": "cus_1", "auto_advance": "maybe"}, None, "auto_advance"),
        ({"customer": "cus_1", "days_until_due": "soon"}, "parameter_invalid_integer", "days_until_due"),
        ({"customer": "cus_1", "currency": "dollars"}, None, "currency"),
        ({"customer": "cus_1", "collection_method": "cash"}, None, "collection_method"),
        ({"customer": "cus_1", "description": "x" * 1501}, None, "description"),
        ({"customer": {"id": "cus_1"}}, None, "customer"),
        ({"customer": "cus_1", "metadata": TOO_MANY_KEYS}, None, "metadata"),
        ({"customer": "cus_1", "metadata": {"k" * 41: "x"}}, None, "metadata"),
        ({"customer": "cus_1", "metadata": {"k": "x" * 501}}, None, "metadata[k]"),
        ({"customer": "cus_1", "issuer": {"type": "self", "name": "x"}}, "parameter_unknown", "issuer[name]"),
        ({"customer": "cus_1", "discounts": [{"coupon": "c"}]}, "double_unsupported", "discounts"),
        ({"customer": "cus_1", "subscription": "sub_1"}, "double_unsupported", "subscription"),
        (
            {"customer": "cus_1", "automatic_tax": {"enabled": True, "liability": {"type": "account"}}},
            "double_unsupported",
            "automatic_tax",
        ),
    ],
)
def test_a_wrong_parameter_of_an_invoice_is_named(
    double: StripeDouble, refused: Call, params: Any, code: str | None, param: str
) -> None:
    assert refused("POST", "/v1/invoices", params) == (400, code, param)
    assert double.invoices() == []


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        ({"amount": "12.5"}, "parameter_invalid_integer", "lines[0][amount]"),
        ({"amount": 100_000_000}, "amount_too_large", "lines[0][amount]"),
        ({"amount": -100_000_000}, "amount_too_large", "lines[0][amount]"),
        ({"amount": 1, "cents": 1}, "parameter_unknown", "lines[0][cents]"),
        ({"amount": 1, "period": {"start": 1}}, "parameter_missing", "lines[0][period][end]"),
        ({"amount": 1, "period": {"start": 2, "end": 1}}, None, "lines[0][period][end]"),
        ({"amount": 1, "description": "x" * 5001}, None, "lines[0][description]"),
        ({"amount": 1, "pricing": {"price": "price_1"}}, "resource_missing", "lines[0][pricing][price]"),
        ({"amount": 1, "metadata": {"k": "x" * 501}}, None, "lines[0][metadata][k]"),
        (
            {"price_data": {"currency": "usd", "unit_amount": 60_000_000}, "quantity": 2},
            "double_unsupported",
            "lines[0][price_data]",
        ),
        (
            {"price_data": {"currency": "usd", "unit_amount_decimal": "a"}},
            None,
            "lines[0][price_data][unit_amount_decimal]",
        ),
    ],
)
def test_a_wrong_parameter_of_a_line_is_named(
    refused: Call, draft: Call, line: Any, code: str | None, param: str
) -> None:
    path = f"/v1/invoices/{draft()['id']}/add_lines"
    assert refused("POST", path, {"lines": [line]}) == (400, code, param)


def test_lines_are_required_and_250_at_most(ok: Call, refused: Call, draft: Call) -> None:
    path = f"/v1/invoices/{draft()['id']}/add_lines"
    assert refused("POST", path) == (400, "parameter_missing", "lines")
    assert refused("POST", path, {"lines": [{"amount": 1}] * 251}) == (400, None, "lines")
    assert ok("POST", path, {"lines": [{"amount": 1}] * 250})["total"] == 250
    assert refused("POST", path, {"lines": [{"amount": 1}]}) == (400, None, "lines")


def test_values_at_the_limits_are_taken(ok: Call) -> None:
    metadata = {f"{n:040}": "x" * 500 for n in range(50)}
    invoice = ok(
        "POST", "/v1/invoices", {"customer": "cus_1", "metadata": metadata, "description": "ü" * 1500}
    )
    assert invoice["metadata"] == metadata
    assert invoice["description"] == "ü" * 1500


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": 101}, "limit"),
        ({"limit": 0}, "limit"),
        ({"status": "lost"}, "status"),
        ({"created": {"since": 1}}, "created[since]"),
        ({"created": {"gte": "x"}}, "created[gte]"),
        ({"billing_key": "x"}, "billing_key"),
        ({"starting_after": "in_none"}, "starting_after"),
    ],
)
def test_a_wrong_list_parameter_is_named(refused: Call, params: Any, param: str) -> None:
    status, _, named = refused("GET", "/v1/invoices", params)
    assert (status, named) == (400, param)


def test_no_operation_takes_unknown_parameters(refused: Call, draft: Call) -> None:
    path = f"/v1/invoices/{draft(100)['id']}"
    for method, target in [
        ("POST", f"{path}/finalize"),
        ("POST", f"{path}/void"),
        ("POST", f"{path}/pay"),
        ("POST", path),
        ("DELETE", path),
        ("GET", path),
        ("POST", "/v1/customers"),
        ("GET", "/v1/events"),
    ]:
        assert refused(method, target, {"surprise": "1"})[1:] == ("parameter_unknown", "surprise"), target


def test_a_key_is_required(double: StripeDouble, call: Call, call_at: Call) -> None:
    for authorization in ("", "Bearer ", "Bearer sk_live_1", "Basic sk_test_1"):
        status, _, body = call("GET", "/v1/invoices", headers={"Authorization": authorization})
        assert (status, body["error"]["type"]) == (401, "invalid_request_error")
        assert "sk_" not in body["error"]["message"]
    connection = http.client.HTTPConnection(urlsplit(double.base_url).netloc)
    connection.request("GET", "/v1/invoices")
    assert connection.getresponse().status == 401
    connection.close()
    with StripeDouble(api_keys=frozenset({"sk_test_contract"})).running() as strict:
        assert call_at(strict, "GET", "/v1/invoices")[0] == 200
        other = {"Authorization": "Bearer sk_test_other"}
        assert call_at(strict, "GET", "/v1/invoices", headers=other)[0] == 401


def test_the_version_is_echoed(call: Call) -> None:
    _, headers, _ = call("GET", "/v1/invoices", headers={"Stripe-Version": "2026-10-28.endive"})
    assert headers["stripe-version"] == "2026-10-28.endive"


@pytest.mark.parametrize(
    "path", ["/v2", "/v1", "/v1/", "/v1/unicorns", "/v1/invoices/in_1/burn", "/v1/a/b/c/d/e"]
)
def test_unknown_urls_are_404(refused: Call, path: str) -> None:
    assert refused("GET", path)[0] == 404
