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
