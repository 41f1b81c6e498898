"""`bill --first`: a few invoices for a first look, and the rest with the next `bill`."""

from collections.abc import Callable

import pytest

from spell_billing_tests.command_line.conftest import Shop

USERS = [f"user-{number}" for number in range(1, 6)]


@pytest.fixture(scope="module")
def shop(make_shop: Callable[..., Shop]) -> Shop:
    shop = make_shop("sqlite")
    shop.accounts(*USERS)
    shop.calls("2025-03", *((user, 100) for user in USERS))
    return shop


def test_it_sends_so_many_stops_with_3_and_the_next_bill_sends_the_rest(shop: Shop) -> None:
    assert shop.run("bill", "--month", "2025-03", "--first", "0").returncode == 2
    for sent, waiting in ((2, 3), (3, 2)):
        done = shop.run("bill", "--month", "2025-03", "--first", "2" if sent == 2 else "1")
        assert done.returncode == 3, done.stderr
        assert f"{waiting} bills wait" in done.stdout
        assert len(shop.double.invoices()) == sent
        status = shop.json("status", "--month", "2025-03")
        assert (status["state"], status["invoiced"], status["pending"]) == ("partial", sent, waiting)
    assert shop.run("bill", "--month", "2025-03").returncode == 0
    assert len(shop.double.invoices()) == len(USERS)
    assert shop.run("reconcile", "--month", "2025-03").returncode == 0


def test_more_than_there_are_bills_everybody(shop: Shop) -> None:
    shop.calls("2025-04", *((user, 120) for user in USERS))
    assert shop.run("bill", "--month", "2025-04", "--first", "9").returncode == 0
    assert len(shop.double.invoices()) == 2 * len(USERS)


def test_bills_of_accounts_that_were_corrected_after_the_first_look_are_drafted_again(shop: Shop) -> None:
    shop.calls("2025-05", *((user, 140) for user in USERS))
    first = shop.run("bill", "--month", "2025-05", "--first", "1")
    assert "4 bills wait, as they were drafted; one whose account gets another customer" in first.stdout
    shop.double.add_customer("cus_new")
    shop.execute("UPDATE billing_accounts SET stripe_customer_id = 'cus_new' WHERE user_id = 'user-3'")
    shop.execute("UPDATE billing_accounts SET currency = 'eur' WHERE user_id = 'user-4'")
    shop.execute("DELETE FROM billing_accounts WHERE user_id = 'user-5'")

    rest = shop.run("bill", "--month", "2025-05")

    assert rest.returncode == 3
    assert "because their account's customer or currency changed: user-3, user-4, user-5." in rest.stderr
    sent = shop.double.invoices()[2 * len(USERS) :]
    assert [(each.customer, each.currency) for each in sent] == [
        ("cus_user-1", "usd"),
        ("cus_user-2", "usd"),
        ("cus_new", "usd"),
        ("cus_user-4", "eur"),
    ]
    bills = {each["user_id"]: each for each in shop.json("invoices", "--month", "2025-05")}
    assert bills["user-5"]["reason"] == "no_billing_account"
    shop.accounts("user-5")
    assert shop.run("bill", "--month", "2025-05").returncode == 0
    assert shop.run("reconcile", "--month", "2025-05").returncode == 0
