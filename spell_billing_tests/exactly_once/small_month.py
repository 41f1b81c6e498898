"""A small October: four users whose bills differ in what could go wrong with them."""

import http.client
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode, urlsplit

from spell_billing.core.drafting import Account, Credit, Draft, draft_invoice
from spell_billing.core.month import Month
from spell_billing.core.pricing import Rating
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.core.late_usage import late_of
from spell_billing_tests.exactly_once.billing import OCTOBER

PLAIN, PLAN, FOREIGN, NO_ACCOUNT = "user-0001", "user-0002", "user-0003", "user-0004"
BILLABLE = (PLAIN, PLAN, FOREIGN)
CUSTOMERS = {PLAIN: "cus_plain", PLAN: "cus_plan", FOREIGN: "cus_foreign"}
WRITES = 3 * len(BILLABLE)
"""A run that nothing disturbs sends this many."""


def drafts(*, more_cents: int = 0, everyone_billable: bool = False) -> list[Draft]:
    """Draft the month.

    Args:
        more_cents: Usage that each user has on top, as when the usage is frozen anew with late rows.
        everyone_billable: Leave out the user who has no billing account.
    """
    more = Decimal(more_cents)
    calls = 3 + more_cents
    plan = Account("cus_plan", plan_id="pro", plan_name="Pro", included_cents=500)
    late = late_of(Month(2026, 9), 2, Decimal("120.5"), Decimal(600), Rating(500))
    month = [
        draft_invoice(
            OCTOBER, PLAIN, calls=calls, usage_cents=Decimal(1234) + more, account=Account("cus_plain")
        ),
        draft_invoice(
            OCTOBER,
            PLAN,
            calls=calls,
            usage_cents=Decimal("2500.4") + more,
            account=plan,
            late=[late],
            credit=Credit(300, "usd"),
        ),
        draft_invoice(
            OCTOBER, FOREIGN, calls=calls, usage_cents=Decimal("990.5") + more, account=Account("cus_foreign")
        ),
        draft_invoice(OCTOBER, NO_ACCOUNT, calls=calls, usage_cents=Decimal(77) + more, account=None),
    ]
    return month[:3] if everyone_billable else month


def write_drafts(database_url: str, month: Sequence[Draft]) -> None:
    """Draft the month into a ledger that has not begun to bill it."""
    url = parse_database_url(database_url, setting="DATABASE_URL")
    with (
        Ledger(url) as ledger,
        ledger.session(OCTOBER, Actor("drafter", "run-0"), wait_seconds=0) as session,
    ):
        session.replace_drafts(
            month,
            usage_version="v1",
            calls=sum(each.calls for each in month),
            usage_cents=sum((each.usage_cents for each in month), Decimal(0)),
        )


def set_the_stage(double: StripeDouble) -> None:
    """Give the account its customers, one of them with an item of somebody else's that is still pending.

    Only the card of the plain user works: the other invoices stay open, and a person can void them.
    """
    double.add_customer("cus_plain")
    double.add_customer("cus_plan", card="declined")
    double.add_customer("cus_foreign", card="none")
    item = {"customer": "cus_foreign", "amount": 4200, "currency": "usd", "description": "not of this system"}
    ask_stripe(double, "POST", "/v1/invoiceitems", item)


def ask_stripe(
    double: StripeDouble, method: str, path: str, parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Do at Stripe what a person does in its dashboard."""
    connection = http.client.HTTPConnection(urlsplit(double.base_url).netloc, timeout=20)
    try:
        headers = {
            "Authorization": "Bearer sk_test_person",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        connection.request(method, path, urlencode(parameters or {}), headers)
        answer = connection.getresponse()
        body: dict[str, Any] = json.loads(answer.read())
    finally:
        connection.close()
    assert answer.status == 200, body
    return body
