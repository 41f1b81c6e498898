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


def test_a_customer_corrected_after_the_first_look_counts_once_the_bill_was_held(shop: Shop) -> None:
    shop.calls("2025-05", *((user, 140) for user in USERS))
    first = shop.run("bill", "--month", "2025-05", "--first", "1")
    assert "4 bills wait, as they were drafted" in first.stdout
    shop.execute("UPDATE billing_accounts SET stripe_customer_id = 'cus_new' WHERE user_id >= 'user-4'")
    shop.double.add_customer("cus_new")

    last = ("--month", "2025-05", "--user", "user-5", "--reason", "another customer")
    steps = [("hold", *last), ("bill", *last[:2]), ("release", *last), ("bill", *last[:2])]
    assert [shop.run(*step).returncode for step in steps] == [0, 3, 0, 0]

    customers = [each.customer for each in shop.double.invoices()[2 * len(USERS) :]]
    assert sorted(customers) == ["cus_new", *(f"cus_{user}" for user in USERS[:4])]
    assert shop.run("reconcile", "--month", "2025-05").returncode == 0
