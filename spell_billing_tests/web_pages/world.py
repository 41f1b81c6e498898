"""What tests do to a served platform besides asking it: hear of payments, make links, name addresses."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

from spell_billing.core.month import Month
from spell_billing.ledger.payments import Payment, keep_payments
from spell_billing.ledger.settling import settle
from spell_billing_tests.proof.small_platform import MARCH
from spell_billing_tests.web.house import House

OpenDoors = Callable[..., AbstractContextManager[House]]
"""Serves a platform, with further settings if any."""

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a/b/../c",
    "user 1?x=1&y=2#z",
    "100%41",
    "用户-é-😀",
    '=HYPERLINK("http://example.com")',
    "{{ 7 * 7 }}",
    "a' OR '1'='1",
    "x" * 500,
    "v1/users/other/invoices",
]
"""User ids that would break a page, an address, a query or a spreadsheet that is not careful."""


def api(user_id: str, rest: str) -> str:
    """Name a path of the history API."""
    return f"/v1/users/{quote(user_id, safe='')}/{rest}"


def token_of(house: House, user_id: str, hours: int = 24) -> str:
    """Have a link made; give its token."""
    body = json.dumps({"expires_in_hours": hours})
    answer = house.admit("POST", api(user_id, "link"), body, content_type="application/json")
    assert answer.status == 200, answer.text
    return str(urlsplit(answer.json["url"]).path).removeprefix("/u/")


def hear(house: House, user_id: str, *, month: Month = MARCH, **said: Any) -> Payment:
    """Hear from Stripe of a user's invoice; the bill follows."""
    bill = house.ledger.bills_of_user(month, user_id)[-1]
    assert bill.stripe_invoice_id is not None
    values: dict[str, Any] = {
        "stripe_invoice_id": bill.stripe_invoice_id,
        "month": str(month),
        "user_id": user_id,
        "generation": bill.generation,
        "status": "open",
        "attempts": said.get("failed_attempts", 0),
        "failed_attempts": 0,
        "next_attempt_at": None,
        "amount_due_cents": bill.total_cents,
        "amount_paid_cents": bill.total_cents if said.get("status") == "paid" else 0,
        "decline_code": None,
        "message": None,
        "hosted_invoice_url": "https://invoice.example.com/i/1",
        "invoice_pdf": "https://invoice.example.com/i/1/pdf",
        "as_of": house.clock(),
        "way": "sensor",
    }
    payment = Payment(**{**values, **said})
    with house.ledger.writing() as connection:
        keep_payments(connection, [payment])
        settle(connection, invoice_ids=[payment.stripe_invoice_id])
    return payment


def moment(day: int, hour: int = 12) -> datetime:
    """Give an hour of April 2025, the present month of the tests."""
    return MARCH.end.replace(day=day, hour=hour)
