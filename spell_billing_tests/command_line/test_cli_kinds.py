"""A month of every kind of customer, and what people do to it at Stripe afterwards, all by commands."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from pydantic import SecretStr

from spell_billing.alerts.channels import Alerts
from spell_billing.invoicing.gateway import Gateway, Patience
from spell_billing.invoicing.pace import LOOPBACK, Pace
from spell_billing.ledger.ledger import Ledger
from spell_billing.payments.follow import follow_payments
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_api.client import StripeApi

MARCH, APRIL = ("--month", "2025-03"), ("--month", "2025-04")
CHARGED = {"card": 1000, "tiny": 30, "rich": 1000, "refunded": 900, "disputed": 800, "edited": 700}
BY_HAND = {"cleared": 600, "voided": 500, "credited": 1200}
OTHER_CURRENCIES = {"idr": 15_000_000_000, "kwd": 1_234, "isk": 12_345, "jpy": 500}
LATER = {"mailed": 5000, "clocked": 250}


def person(shop: Any, path: str, **fields: object) -> None:
    """Do at Stripe what a person does in its dashboard."""
    request = Request(  # noqa: S310 - the double's address
        f"{shop.double.base_url}{path}",
        data=urlencode(fields).encode(),
        headers={"Authorization": "Bearer sk_test_person"},
        method="POST",
    )
    with urlopen(request, timeout=20):  # noqa: S310
        pass


def read_money(shop: Any) -> None:
    """Do what the sensor `payments` does each minute."""

    @asynccontextmanager
    async def connect() -> AsyncIterator[Gateway]:
        async with StripeApi(SecretStr("sk_test_sensor"), shop.double.base_url, timeout_seconds=10) as api:
            yield Gateway(api, Pace(LOOPBACK), Patience())

    with Ledger(parse_database_url(shop.url, setting="DATABASE_URL")) as ledger:
        alerts = Alerts((), ledger.outbox, logging.getLogger("tick"))
        follow_payments(ledger, connect, alerts, dunning_days=())


def invoice_of(shop: Any, user: str) -> str:
    (found,) = [each for each in shop.double.invoices() if each.customer == f"cus_{user}"]
    return str(found.id)


def charge_of(shop: Any, user: str) -> str:
    (found,) = [each for each in shop.double.state.charges if each.customer == f"cus_{user}"]
    return str(found.id)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def billed(request: pytest.FixtureRequest, make_shop: Callable[..., Any]) -> Any:
    """Give a shop whose March is billed: every kind of customer has one invoice."""
    shop = make_shop(request.param, ready=True)
    shop.execute("ALTER TABLE billing_accounts ADD COLUMN collection TEXT")
    shop.execute("ALTER TABLE billing_accounts ADD COLUMN po_number TEXT")
    users = {**CHARGED, **BY_HAND, **OTHER_CURRENCIES, **LATER}
    shop.execute(
        "INSERT INTO billing_accounts VALUES (:user, :customer, :currency, :collection, :po)",
        [
            {
                "user": user,
                "customer": f"cus_{user}",
                "currency": user if user in OTHER_CURRENCIES else "usd",
                "collection": "send" if user == "mailed" else None,
                "po": "PO 4711" if user == "mailed" else None,
            }
            for user in users
        ],
    )
    for user in users:
        shop.double.add_customer(
            f"cus_{user}",
            card={"mailed": "none", "voided": "declined", "edited": "declined"}.get(user, "ok"),
            balance_cents=-400 if user == "rich" else 0,
            currency="usd" if user == "rich" else None,
            test_clock="clock_1" if user == "clocked" else None,
        )
    shop.calls("2025-03", *users.items())
    done = shop.run("bill", *MARCH)
    assert done.returncode == 0, done.stdout + done.stderr
    return shop


def test_a_month_of_every_kind_is_billed_followed_and_corrected(billed: Any) -> None:
    # One month, told from its first invoice to its correction: each step needs those before it.
    shop = billed
    status = shop.run("status", *MARCH).stdout
    assert "worth 150,000,000.00 IDR, 123.45 ISK, ¥500, 1.234 KWD and $119.80." in status
    assert "carried to the next invoice: -0.45 ISK and -0.004 KWD" in status
    assert "$0.30 moved to the next invoices, $4.00 paid from balances" in status

    before = shop.run("reconcile", *MARCH)
    assert before.returncode == 0
    amounts = "150,000,000.00 IDR, 123.00 ISK, ¥500, 1.230 KWD and $119.80"
    assert f"Ledger  15 invoices, {amounts}\nStripe  15 invoices, {amounts}\n" in before.stdout
    assert before.stdout.endswith("All four agree to the cent.\n")

    person(shop, "/v1/refunds", charge=charge_of(shop, "refunded"), amount=400)
    shop.double.dispute(invoice_of(shop, "disputed"))
    person(shop, f"/v1/invoices/{invoice_of(shop, 'cleared')}", metadata="")
    person(shop, f"/v1/invoices/{invoice_of(shop, 'voided')}/void")
    changed = shop.run("reconcile", *MARCH)
    assert changed.returncode == 3
    for finding in (
        "cleared, in_",
        "metadata_differs",
        "voided, in_",
        "void_at_stripe",
        "$4.00 refunded, $8.00 disputed",
    ):
        assert finding in changed.stdout

    verified = shop.run("bill", *MARCH, "--verify")
    assert verified.returncode == 3
    assert "of user cleared was changed at Stripe; it was restored" in verified.stderr
    assert "1 of the 15 invoices of earlier runs no longer stand" in verified.stdout
    assert (
        shop.run("settle", *MARCH, "--user", "voided", "--as", "written-off", "--reason", "agreed").returncode
        == 0
    )

    for is_again in (False, True):
        credited = shop.run("credit", *MARCH, "--user", "credited", "--cents", "200", "--reason", "outage")
        assert credited.returncode == 0
        assert "(credited, 2025-03): $2.00 is refunded to the card." in credited.stdout
        nothing = "Nothing was done: a credit note of $2.00 for this reason was made on "
        assert (nothing in credited.stdout) == is_again
    lowered = shop.run("credit", *MARCH, "--user", "mailed", "--cents", "1000", "--reason", "agreed")
    assert "$10.00 lowers what is due." in lowered.stdout
    assert len(list(shop.double.state.credit_notes)) == 2
    refused = shop.run("void", *MARCH, "--user", "card", "--reason", "wrong")
    assert refused.returncode == 1
    assert "spell-billing credit --month 2025-03 --user card --all" in refused.stderr
    story = shop.run("explain", *MARCH, "--user", "credited").stdout
    assert story.startswith(
        f"Invoice {invoice_of(shop, 'credited')} of $12.00 (1 call) is paid: $12.00 paid, $2.00 refunded."
    )

    late = shop.run("reconcile", *MARCH)
    assert [line.split(",")[0] for line in late.stdout.splitlines() if "money_differs" in line] == [
        "refunded",
        "disputed",
    ]
    read_money(shop)
    after = shop.run("reconcile", *MARCH)
    assert after.returncode == 0, after.stdout
    assert "$39.50 kept: $53.50 received, $6.00 refunded, $8.00 disputed; $47.00 due" in after.stdout
    told = " ".join(shop.run("status", *MARCH).stdout.split())
    assert "$6.00 refunded, $8.00 disputed, $10.00 taken off by credit notes" in told


def test_the_next_month_brings_what_was_left_and_bills_nothing_again(billed: Any) -> None:
    shop = billed
    shop.calls("2025-04", ("kwd", 1_234), ("isk", 12_345), ("tiny", 100), ("card", 60))
    review = shop.run("bill", *APRIL)
    assert review.returncode == 3
    assert "in review" in review.stdout
    assert shop.run("approve", *APRIL, "--reason", "few users of a trial").returncode == 0

    done = shop.run("bill", *APRIL)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "credits of earlier months: +" not in done.stdout
    in_april = {
        each.customer: each.total_cents
        for each in shop.double.invoices()
        if each.metadata.get("spell_month") == "2025-04"
    }
    assert in_april == {"cus_kwd": 1_230, "cus_isk": 12_300, "cus_tiny": 100, "cus_card": 60}
    reconciled = shop.run("reconcile", *APRIL)
    assert reconciled.returncode == 0, reconciled.stdout
    assert "Frozen  4 users, 4 calls, 13739 minor units of usage" in reconciled.stdout


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_tax_and_coupons_stand_beside_the_total(make_shop: Callable[..., Any], database: str) -> None:
    shop = make_shop(database, ready=True)
    shop.extra = {"AUTOMATIC_TAX": "on", "HONOUR_STRIPE_DISCOUNTS": "true"}
    shop.accounts("taxed", "coupon", "nowhere")
    for user, metadata in {
        "taxed": {"double_tax": "19"},
        "coupon": {"double_coupon": "20"},
        "nowhere": {"double_tax": "unplaced"},
    }.items():
        shop.double.add_customer(f"cus_{user}", metadata=metadata)
    shop.calls("2025-03", ("taxed", 1000), ("coupon", 1000), ("nowhere", 1000))

    done = shop.run("bill", *MARCH)

    assert done.returncode == 0, done.stderr
    assert "Coupons at Stripe took $2.00 off." in done.stdout
    assert "Stripe put tax of $1.90 on top." in done.stdout
    assert "1 invoice is without the tax that was asked for." in done.stdout
    assert sorted(each.total_cents for each in shop.double.invoices()) == [800, 1000, 1190]
    reconciled = shop.run("reconcile", *MARCH)
    assert reconciled.returncode == 0, reconciled.stdout
    assert "Ledger  3 invoices, $29.90" in reconciled.stdout
