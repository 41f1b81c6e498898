"""A customer is replaced while Stripe still has an amount on the old one's balance, through the commands."""

from collections.abc import Callable
from typing import Any

import pytest

ONE, TWO = "user-0001", "user-0002"
MARCH, APRIL, MAY = (f"2025-{number:02}" for number in (3, 4, 5))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_stripe_has_on_a_replaced_customers_balance_is_named_before_it_is_lost_and_once(
    make_shop: Callable[..., Any], kind: str
) -> None:
    shop = make_shop(kind, ready=True)
    shop.accounts(ONE, TWO)
    shop.calls(MARCH, (ONE, 30), (TWO, 20))
    for month in (APRIL, MAY):
        shop.calls(month, (ONE, 1_000), (TWO, 1_000))
    bill = ("bill", "--month")
    assert shop.run(*bill, MARCH).returncode == 0
    shop.double.add_customer("cus_new")
    shop.execute(f"UPDATE billing_accounts SET stripe_customer_id = 'cus_new' WHERE user_id = '{ONE}'")

    held = shop.run(*bill, APRIL)

    assert held.returncode == 3, held.stdout + held.stderr
    assert len(shop.double.invoices()) == 2
    said = " ".join(held.stdout.split())
    assert f"{ONE}: cus_{ONE} owes $0.30, and was replaced by cus_new." in said
    assert TWO not in said
    assert shop.run("approve", "--month", APRIL, "--reason", "moved by hand").returncode == 0
    assert shop.run(*bill, APRIL).returncode == 0
    assert shop.run(*bill, MAY).returncode == 0
