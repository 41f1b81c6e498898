"""A ledger bills one Stripe account in one mode: after a rehearsal it takes no live key by itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from spell_billing.stripe_double import StripeDouble

MONTH = ("--month", "2025-03")
LIVE = "sk_live_Vertraulich61"


@contextmanager
def live_mode(*users: str) -> Iterator[StripeDouble]:
    """Give the live mode of the account, with the users' customers."""
    with StripeDouble(api_keys=frozenset({LIVE})).running() as double:
        for user in users:
            double.add_customer(f"cus_{user}")
        yield double


@pytest.fixture(params=["sqlite"])
def shop(request: pytest.FixtureRequest, make_shop: Callable[..., Any]) -> Any:
    shop = make_shop(request.param, ready=True)
    shop.accounts("ada", "bob")
    shop.calls("2025-03", ("ada", 5000), ("bob", 700))
    return shop


@pytest.mark.parametrize("shop", ["sqlite", "postgresql"], indirect=True)
def test_a_rehearsed_ledger_refuses_a_live_key_until_the_rehearsal_is_forgotten(shop: Any) -> None:
    assert shop.run("bill", *MONTH).returncode == 0
    with live_mode("ada", "bob") as double:
        live = {"STRIPE_API_KEY": LIVE, "STRIPE_API_BASE": double.base_url}
        for command in (
            ("bill", *MONTH),
            ("bill", *MONTH, "--verify"),
            ("reconcile", *MONTH),
            ("void", *MONTH, "--user", "ada", "--reason", "wrong"),
        ):
            refused = shop.run(*command, **live)
            assert refused.returncode == 1
            assert "This ledger bills acct_1StripeDouble in test mode" in refused.stderr
            assert "STRIPE_API_KEY is of" in refused.stderr
            assert "`spell-billing forget-rehearsal`" in refused.stderr
        assert double.requests == []

        asked = shop.run("forget-rehearsal", **live)
        assert asked.returncode == 1
        assert "2 bills of acct_1StripeDouble in test mode would be removed" in asked.stderr
        forgotten = shop.run("forget-rehearsal", "--yes", **live)
        assert forgotten.returncode == 0, forgotten.stderr
        assert "2 bills of acct_1StripeDouble in test mode are removed" in forgotten.stdout

        billed = shop.run("bill", *MONTH, **live)
        assert billed.returncode == 0, billed.stderr
        assert sorted(each.total_cents for each in double.invoices()) == [700, 5000]
        assert shop.run("reconcile", *MONTH, **live).returncode == 0

        kept = shop.run("forget-rehearsal", "--yes", **live)
        assert kept.returncode == 1
        assert "in live mode is never removed" in kept.stderr
        assert shop.run("bill", *MONTH, **live).returncode == 0
    back = shop.run("bill", *MONTH)
    assert back.returncode == 1
    assert "in live mode, and STRIPE_API_KEY is of an account in test mode" in back.stderr


def test_nothing_is_forgotten_of_a_ledger_that_knows_no_account(shop: Any) -> None:
    refused = shop.run("forget-rehearsal", "--yes")
    assert refused.returncode == 1
    assert "knows no Stripe account" in refused.stderr


def test_a_month_is_pinned_by_its_first_invoice_and_not_by_a_key_that_stripe_refuses(shop: Any) -> None:
    refused = shop.run("bill", *MONTH, STRIPE_API_KEY="sk_wrong_Vertraulich62")
    assert refused.returncode == 1
    assert "Invalid API Key" in refused.stderr
    shop.calls("2025-03", ("ada", 300))
    assert shop.run("bill", *MONTH).returncode == 0
    assert sorted(each.total_cents for each in shop.double.invoices()) == [700, 5300]
