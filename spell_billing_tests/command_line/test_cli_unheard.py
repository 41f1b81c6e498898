"""What a person ended at Stripe while nobody follows events: the next month does not give it back again."""

from collections.abc import Callable

import pytest

from spell_billing_tests.command_line.conftest import Shop
from spell_billing_tests.command_line.test_cli_kinds import charge_of, invoice_of, person

MARCH, APRIL = "2025-03", "2025-04"
RULES = {"REVIEW_PAST_PERCENT": "100", "REVIEW_MONTH_PERCENT": "100,9999"}


def billed(shop: Shop, card: str) -> Shop:
    """Bill March of ada, who pays by a card of this kind, and remove one of her two rows."""
    shop.accounts("bob")
    shop.execute("INSERT INTO billing_accounts VALUES ('ada', 'cus_ada', 'usd')")
    shop.double.add_customer("cus_ada", card=card)
    shop.calls(MARCH, ("ada", 400), ("ada", 600), ("bob", 500))
    assert shop.run("bill", "--month", MARCH, **RULES).returncode == 0
    shop.execute("DELETE FROM usage_counters WHERE cost_cents = 600")
    return shop


def totals(shop: Shop, user: str) -> list[int]:
    return [each.total_cents for each in shop.double.invoices() if each.metadata["spell_user_id"] == user]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("end", ["void", "mark_uncollectible"])
def test_an_invoice_that_nobody_pays_any_more_gives_nothing_back(
    make_shop: Callable[..., Shop], kind: str, end: str
) -> None:
    shop = billed(make_shop(kind, ready=True), "declined")
    shop.calls(APRIL, ("ada", 900), ("bob", 500))
    person(shop, f"/v1/invoices/{invoice_of(shop, 'ada')}/{end}")

    outdated = shop.run("bill", "--month", APRIL, **RULES)

    assert outdated.returncode == 1
    named = f"refunded at Stripe meanwhile: {invoice_of(shop, 'ada')} of user ada."
    assert named in outdated.stderr
    assert totals(shop, "bob") == [500]
    assert shop.run("bill", "--month", APRIL, **RULES).returncode == 0
    assert totals(shop, "ada") == [1000, 900]
    assert totals(shop, "bob") == [500, 500]
    assert shop.run("reconcile", "--month", APRIL).returncode == 0


def test_a_refund_and_removed_rows_are_not_both_given_back(make_shop: Callable[..., Shop]) -> None:
    shop = billed(make_shop("sqlite", ready=True), "ok")
    shop.calls(APRIL, ("ada", 900), ("bob", 500))
    person(shop, "/v1/refunds", charge=charge_of(shop, "ada"), amount=600)

    assert shop.run("bill", "--month", APRIL, **RULES).returncode == 1
    again = shop.run("bill", "--month", APRIL, **RULES)

    assert again.returncode == 3
    assert "$6.00 of the invoice of 2025-03 went back" in again.stdout + again.stderr
    assert totals(shop, "ada") == [1000]
    assert totals(shop, "bob") == [500, 500]


def test_a_credit_that_waits_for_the_next_invoice_is_looked_at_too(make_shop: Callable[..., Shop]) -> None:
    shop = billed(make_shop("sqlite", ready=True), "declined")
    shop.calls(APRIL, ("bob", 500))
    person(shop, f"/v1/invoices/{invoice_of(shop, 'ada')}/void")

    assert shop.run("bill", "--month", APRIL, **RULES).returncode == 1
    assert shop.run("bill", "--month", APRIL, **RULES).returncode == 0

    assert "credit" not in shop.run("explain", "--month", APRIL, "--user", "ada").stdout
