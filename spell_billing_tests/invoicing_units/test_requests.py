"""The requests of an invoice: valid, the same for the same bill, and compared with what came of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.drafting import Account, Credit, draft_invoice
from spell_billing.core.keys import HASH, KEY, billing_key
from spell_billing.core.lines import USAGE, Line, dump_lines
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.core.pricing import Rating
from spell_billing.core.terms import (
    ENFORCED,
    LEFT_OUT,
    LONGEST_FOOTER,
    LONGEST_PO_NUMBER,
    ON,
    Terms,
    dump_terms,
)
from spell_billing.invoicing import requests
from spell_billing.ledger.rows import Bill, new_bill_values
from spell_billing_tests.core.late_usage import late_of

OCTOBER = Month(2026, 10)
NOW = datetime(2026, 11, 1, tzinfo=UTC)
BILL_ID = 7


def bill_of(user_id: str = "user-0001", usage: str = "1233.5", *, plan: str | None = "Pro") -> Bill:
    account = Account("cus_1", plan_id="pro", plan_name=plan, included_cents=500)
    draft = draft_invoice(
        OCTOBER,
        user_id,
        calls=1234,
        usage_cents=Decimal(usage),
        account=account,
        late=[late_of(Month(2026, 9), 2, Decimal(70), rating=Rating(10))],
        credit=Credit(25, "usd"),
    )
    return Bill(id=BILL_ID, **new_bill_values(OCTOBER, draft, generation=1, run_id="run-1", now=NOW))


def bodies(bill: Bill) -> dict[str, Any]:
    return {
        requests.CREATE: requests.create_parameters(bill),
        requests.ADD_LINES: requests.lines_parameters(bill),
        requests.FINALIZE: requests.FINALIZE_PARAMETERS,
    }


@pytest.fixture(scope="module")
def refusals() -> Callable[[str, Any], list[str]]:
    text = files("spell_billing.stripe_double").joinpath("requests.json").read_text(encoding="utf-8")
    operations = json.loads(text)["operations"]

    def errors(endpoint: str, body: Any) -> list[str]:
        schema = operations[endpoint]["form"]
        return [str(error) for error in jsonschema_rs.validator_for(schema).iter_errors(body)]

    return errors


@given(user_id=st.text(max_size=600), cents=st.integers(1, 99_999_999), plan=st.none() | st.text(max_size=50))
def test_every_request_is_one_that_stripe_publishes(
    refusals: Callable[[str, Any], list[str]], user_id: str, cents: int, plan: str | None
) -> None:
    for endpoint, body in bodies(bill_of(user_id, str(cents), plan=plan)).items():
        assert refusals(endpoint, body) == []
    assert refusals(requests.CREATE, {"customer": 5, "nonsense": 1}) != []


def test_the_bytes_depend_on_nothing_but_what_is_billed() -> None:
    bill = bill_of()
    later = datetime(2027, 1, 1, tzinfo=UTC)
    elsewhere = replace(
        bill,
        id=99,
        run_id="run-2",
        created_at=later,
        updated_at=later,
        message="tried before",
        state=State.DRAFTED,
        stripe_invoice_id="in_1",
        stripe_request_id="req_1",
    )
    again = replace(bill, request_attempt=2)

    assert json.dumps(bodies(bill)) == json.dumps(bodies(elsewhere)) == json.dumps(bodies(again))
    for row in (bill, elsewhere, again):
        assert requests.create_key(row, 1) == "spell:2026-10:user-0001:g1:create"
        assert requests.create_key(row, 2) == "spell:2026-10:user-0001:g1:create:a2"


def test_whoever_works_on_a_draft_uses_the_same_keys_whatever_attempt_made_it() -> None:
    drafted = replace(bill_of(), state=State.DRAFTED, stripe_invoice_id="in_1")
    by_another_ledger = replace(drafted, request_attempt=3)

    for step in ("lines", "finalize"):
        key = f"spell:2026-10:user-0001:g1:{step}:in_1"
        assert requests.step_key(drafted, step, 1) == requests.step_key(by_another_ledger, step, 1) == key
        assert requests.step_key(drafted, step, 2) == f"{key}:a2"


def test_the_draft_names_its_bill_and_takes_nothing_foreign_in() -> None:
    bill = bill_of()
    body = requests.create_parameters(bill)

    assert body["metadata"][KEY] == billing_key(bill.month, bill.user_id, 1) == "spell:2026-10:user-0001:g1"
    assert body["metadata"][HASH] == bill.lines_hash
    assert (body["auto_advance"], body["pending_invoice_items_behavior"], body["discounts"]) == (
        *(False, "exclude"),
        "",
    )
    assert (body["customer"], body["currency"]) == ("cus_1", "usd")
    assert body["description"] == bill.description
    assert requests.FINALIZE_PARAMETERS == {"auto_advance": True}


def test_a_bill_that_is_sent_says_when_it_is_due_and_what_the_customer_wants_to_read(
    refusals: Callable[[str, Any], list[str]],
) -> None:
    terms = Terms("send", 14, "7" * LONGEST_PO_NUMBER, "f" * LONGEST_FOOTER)
    bill = replace(bill_of(), terms=dump_terms(terms))
    body = requests.create_parameters(bill)

    assert refusals(requests.CREATE, body) == []
    usual = {**requests.create_parameters(bill_of()), "collection_method": "send_invoice"}
    assert body == {
        **usual,
        "days_until_due": 14,
        "custom_fields": [{"name": "PO number", "value": "7" * LONGEST_PO_NUMBER}],
        "footer": "f" * LONGEST_FOOTER,
    }


@pytest.mark.parametrize(
    ("terms", "automatic_tax"),
    [
        (Terms(), None),
        (Terms(tax=ON), {"enabled": True}),
        (Terms(tax=ENFORCED), {"enabled": True}),
        (Terms(tax=LEFT_OUT), {"enabled": False}),
    ],
)
def test_tax_is_asked_for_as_the_bill_says(
    refusals: Callable[[str, Any], list[str]], terms: Terms, automatic_tax: Any
) -> None:
    body = requests.create_parameters(replace(bill_of(), terms=dump_terms(terms)))

    assert refusals(requests.CREATE, body) == []
    assert body.get("automatic_tax") == automatic_tax
    assert refusals(requests.LEAVE_TAX_OUT, requests.UNTAXED_PARAMETERS) == []


def test_discounts_are_kept_out_of_a_bill_and_its_lines_unless_they_are_honoured(
    refusals: Callable[[str, Any], list[str]],
) -> None:
    honoured = replace(bill_of(), terms=dump_terms(Terms(discounts=True)))
    create, lines = requests.create_parameters(honoured), requests.lines_parameters(honoured)

    assert refusals(requests.CREATE, create) == refusals(requests.ADD_LINES, lines) == []
    assert "discounts" not in create
    assert [each["discountable"] for each in lines["lines"]] == [
        each["amount"] > 0 for each in lines["lines"]
    ]
    assert requests.create_parameters(bill_of())["discounts"] == ""
    assert not any(each["discountable"] for each in requests.lines_parameters(bill_of())["lines"])


@pytest.mark.parametrize(
    ("terms", "shown", "wrong"),
    [
        (Terms(tax=ON), {"total": 119, "tax": ("exclusive", 19)}, None),
        (Terms(tax=ON), {"total": 100, "tax": ("inclusive", 16)}, None),
        (Terms(tax=ON), {"total": 120, "tax": ("exclusive", 19)}, "total 101 instead of 100"),
        (Terms(tax=ON), {"total": 99, "tax": ("exclusive", 19), "off": 20}, "total 80 instead of 100"),
        (Terms(tax=ON, discounts=True), {"total": 95, "tax": ("exclusive", 15), "off": 20}, None),
        (Terms(discounts=True), {"total": 80, "off": 20}, None),
        (Terms(), {"total": 80, "off": 20}, "total 80 instead of 100"),
        (Terms(), {"total": 119, "tax": ("exclusive", 19)}, "total 119 instead of 100"),
        (Terms(tax=ON), {"total": 100}, None),
        (Terms(tax=ENFORCED), {"total": 100}, "no automatic tax"),
    ],
)
def test_what_is_compared_is_the_total_before_what_the_terms_provide_for(
    terms: Terms, shown: dict[str, Any], wrong: str | None
) -> None:
    lines = (Line(USAGE, "text", 100, "2026-10"),)
    bill = replace(bill_of(), total_cents=100, lines=dump_lines(lines), terms=dump_terms(terms))
    behavior, tax_cents = shown.get("tax", ("", 0))
    invoice = {
        "currency": "usd",
        "total": shown["total"],
        "automatic_tax": {"enabled": "tax" in shown},
        "total_taxes": [{"amount": tax_cents, "tax_behavior": behavior}],
        "total_discount_amounts": [{"amount": shown.get("off", 0)}],
    }

    assert requests.difference(bill, invoice, [{"description": "text", "amount": 100}]) == wrong


def test_the_lines_sum_to_the_bill_and_carry_their_month() -> None:
    bill = bill_of()
    lines = requests.lines_parameters(bill)["lines"]

    assert sum(line["amount"] for line in lines) == bill.total_cents
    assert all(isinstance(line["amount"], int) for line in lines)
    assert not any(line["discountable"] for line in lines)
    assert lines[0]["period"] == {
        "start": int(datetime(2026, 10, 1, tzinfo=UTC).timestamp()),
        "end": int(datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC).timestamp()),
    }
    late = next(line for line in lines if line["metadata"]["spell_kind"] == "late_usage")
    assert late["metadata"]["spell_month"] == "2026-09"
    assert late["period"]["end"] == OCTOBER.first_second - 1


def stripes_view(bill: Bill) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lines = [{"description": line.description, "amount": line.amount_cents} for line in bill.parsed_lines]
    return {"currency": bill.currency, "total": bill.total_cents}, lines


def test_an_invoice_that_shows_the_ledgers_lines_in_any_order_has_no_difference() -> None:
    bill = bill_of()
    invoice, lines = stripes_view(bill)

    assert requests.difference(bill, invoice, lines) is None
    assert requests.difference(bill, invoice, lines[::-1]) is None


def test_every_difference_of_an_invoice_is_named() -> None:
    bill = bill_of()
    invoice, lines = stripes_view(bill)
    dearer = [{**lines[0], "amount": lines[0]["amount"] + 1}, *lines[1:]]
    renamed = [{**lines[0], "description": "other"}, *lines[1:]]

    assert requests.difference(bill, {**invoice, "currency": "eur"}, lines) == "currency eur instead of usd"
    assert requests.difference(bill, invoice, lines[1:]) == "3 lines instead of 4"
    assert requests.difference(bill, invoice, [*lines, lines[0]]) == "5 lines instead of 4"
    assert requests.difference(bill, invoice, dearer) == "other lines than the ledger's"
    assert requests.difference(bill, invoice, renamed) == "other lines than the ledger's"
    # A discount or a tax shows in the total alone.
    assert (
        requests.difference(bill, {**invoice, "total": 1}, lines) == f"total 1 instead of {bill.total_cents}"
    )
